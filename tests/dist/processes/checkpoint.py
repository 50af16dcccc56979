"""Training with checkpoints on several processes. Arguments: train or resume, the folder, one for results."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import TesseraError

WHAT, FOLDER, RESULTS = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def main() -> None:
    here = dist.init(timeout=30)
    mesh = Mesh(["x"], here.size)
    w = dist.tensor((7, 5), layout=ShardSpec((0,), ("x",)), mesh=mesh, name="w", init="xavier_normal")
    same = dist.tensor((5,), layout=ShardSpec(), mesh=mesh, name="same", init=0.1)
    b = op.parameter((5,), name="b")
    adam = optim.AdamW(1e-1)

    @graph.training_step
    def step(x, labels):
        loss = op.cross_entropy(op.dropout(x, 0.2) @ w * same + b, labels)
        adam.apply(graph.backward(loss))
        return loss

    compiled = graph.compile(step, op.tensor((6, 7)), op.tensor((6,), dtype="i64"))
    result: dict[str, object] = {"losses": []}

    def train(start: int, stop: int) -> None:
        for n in range(start, stop):
            data = np.random.default_rng(n)
            loss = compiled(data.random((6, 7), np.float32), data.integers(0, 5, 6))
            result["losses"].append(loss.item().hex())
            if n + 1 == 3 and WHAT == "train":
                checkpoint.save(compiled, 3)

    checkpoint = graph.Checkpoint(FOLDER, keep=1)
    if WHAT == "train":
        train(0, 6)
        checkpoint.wait()
    else:
        assert checkpoint.restore(compiled) == 3
        result["bytes"] = checkpoint.bytes_read
        train(3, 6)
    result["w"], result["steps"] = op.parameter_of(w).value.tolist(), checkpoint.steps()
    record(result, here)
    if WHAT == "train":
        if here.rank == 1:  # it dies with its file of the next checkpoint half written
            os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        try:
            checkpoint.save(compiled, 6)
            checkpoint.wait()
        except TesseraError as error:
            result["error"] = f"{type(error).__name__}: {error}"
        record({**result, "steps": checkpoint.steps()}, here)


def record(result: dict[str, object], here: dist.World) -> None:
    (RESULTS / f"{WHAT}{here.rank}of{here.size}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
