"""Writers of checkpoints that are killed: a program of its own, which forks them before it has started any thread.

``lines FOLDER``: a writer is killed before every single line of the code that writes, one after the other.
``training FOLDER SEED``: a training run is killed at random times and started again until it is done.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tessera import dist, graph, op, optim
from tessera.op.parameter import Parameter

WRITING = {"save", "put_in_place", "begin", "commit", "_keep", "_clean", "_write", "_begin"}


def fork(child: Callable[[], None]) -> int:
    """The process number of a child that runs the function."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    """How it ended: 0 for success, -9 for killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- every line ---


def kill_at(line: int) -> None:
    """Kill this process before it executes the line with this number, counted in the code that writes."""
    seen = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        return local if code.co_name in WRITING and "tessera" in code.co_filename else None

    threading.settrace(trace)
    sys.settrace(trace)


def lines(folder: str) -> None:
    mesh = dist.Mesh(["x"], 2)
    spec = dist.ShardSpec((0,), ("x",))
    w = op.parameter_of(dist.tensor((3,), layout=spec, mesh=mesh, name="w", init=0.0))
    rng = Parameter("n", (), np.int64, trainable=False)
    checkpoint = graph.Checkpoint(folder, keep=1)

    def write(step: int) -> None:
        w.value, rng.value = np.full(3, step, np.float32), np.asarray(step)
        checkpoint.save([w, rng], step)
        checkpoint.wait()

    assert status_of(fork(lambda: write(0))) == 0
    line, done, unfinished = 0, False, 0
    while not done:
        before, line = checkpoint.steps()[-1], line + 1

        def child(step: int = before + 1, line: int = line) -> None:
            kill_at(line)
            write(step)

        status = status_of(fork(child))
        assert status in (0, -signal.SIGKILL), status
        done = status == 0
        found = checkpoint.restore([w, rng])
        assert found in ((before + 1,) if done else (before, before + 1)), (found, before)
        assert w.value.tolist() == [found] * 3 and int(rng.value) == found
        unfinished += found == before
    assert unfinished > 20 and line > unfinished + 3, (line, unfinished)
    # The last writer has removed what all the others have left.
    left = sorted(str(p.relative_to(folder)).split(".")[0] for p in Path(folder).rglob("*"))
    step = checkpoint.steps()[-1]
    assert left == [f"step-{step}", f"step-{step}/manifest", f"step-{step}/shards-0"], left
    print(f"{line} lines, {unfinished} before the checkpoint was complete")


# --- training ---

TOTAL = 12


def training(folder: str, seed: int) -> None:
    draw = random.Random(seed)
    mesh = dist.Mesh(["dp", "tp"], shape=[1, 2])
    w = dist.tensor((5, 7), layout=dist.ShardSpec((1,), ("tp",)), mesh=mesh, name="w", init="xavier_normal")
    b = op.parameter((7,), name="b")
    adam = optim.AdamW(optim.cosine(1e-1, steps=TOTAL))

    @graph.training_step
    def step(x: Any, labels: Any) -> Any:
        loss = op.cross_entropy(op.dropout(x, 0.3) @ w + b, labels)
        adam.apply(graph.backward(loss))
        return loss

    example = op.tensor((4, 5)), op.tensor((4,), dtype="i64")
    compiled = graph.compile(step, *example)

    def run(where: str, pause: float) -> None:
        with graph.Checkpoint(where, keep=2) as checkpoint:
            start = checkpoint.restore(compiled) if checkpoint.steps() else 0
            for n in range(start, TOTAL):
                data = np.random.default_rng(n)
                compiled(data.random((4, 5), np.float32), data.integers(0, 7, 4))
                checkpoint.save(compiled, n + 1)
                time.sleep(pause)

    whole, killed = os.path.join(folder, "whole"), os.path.join(folder, "killed")
    assert status_of(fork(lambda: run(whole, 0.0))) == 0
    kills, starts = 0, set[int]()
    while True:
        pid = fork(lambda: run(killed, 0.04))  # too slow to end before the third kill
        time.sleep(draw.uniform(0.02, 0.1 + 0.01 * kills))  # longer and longer: it gets on even on a busy machine
        os.kill(pid, signal.SIGKILL)
        status = status_of(pid)
        assert status in (0, -signal.SIGKILL), status
        steps = graph.Checkpoint(killed).steps()
        starts.update(steps[-1:])
        if status == 0:
            break
        kills += 1
        assert kills < 200, "no progress"
    values = []
    for where in (whole, killed):
        assert graph.Checkpoint(where).restore(compiled) == TOTAL
        values.append({name: p.value.tobytes() for name, p in compiled.parameters.items()})
    assert len(values[0]) > 6 and values[0] == values[1]
    assert kills > 2 and len(starts) > 2, (kills, starts)
    print(f"killed {kills} times, at steps {sorted(starts)}")


if __name__ == "__main__":
    if sys.argv[1] == "lines":
        lines(sys.argv[2])
    else:
        training(sys.argv[2], int(sys.argv[3]))
