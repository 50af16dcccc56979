"""One process of several: what goes wrong on one of them, and what the others say. Arguments: what, a folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import TesseraError

WHAT, FOLDER = sys.argv[1], Path(sys.argv[2])


def main() -> None:
    timeout = 4.0 if WHAT in ("hang", "kill") else 30.0
    here = dist.init(timeout=timeout)
    mesh = Mesh(["dp", "tp"], here.size)
    width = 8 if not (WHAT == "artefact" and here.rank == 1) else 12
    w = dist.tensor((6, width), layout=ShardSpec(("row",), ("tp",)), mesh=mesh, name="w", init=0.5)
    table = op.parameter((9, 6), name="table", init=float(here.rank) if WHAT == "values" else 1.0)
    adam = optim.SGD(0.1)

    def step(ids):
        x = op.take(table, dist.constrain(ids, ShardSpec((0,), ("dp",)), mesh), 0)
        loss = op.sum(x @ w)
        adam.apply(graph.backward(loss))
        return loss

    ids = np.arange(8) % 9
    step = graph.compile(step, ids)
    meet(here, "compiled")
    begin = time.monotonic()
    try:
        if WHAT not in ("artefact", "values"):
            step(ids)
            meet(here, "ran")
            begin = time.monotonic()
        if here.rank == 1:
            misbehave()
        if WHAT == "index" and here.rank == 1:
            ids = ids.copy()
            ids[:] = 99
        step(ids)
        step(ids)
        found = "no error"
    except TesseraError as error:
        found = f"{type(error).__name__}: {error}"
    if WHAT == "index":  # a failure is for good
        try:
            step(np.arange(8) % 9)
        except TesseraError as error:
            found += f"\nand again: {error}"
    seconds = time.monotonic() - begin
    (FOLDER / f"{here.rank}.json").write_text(json.dumps({"error": found, "seconds": seconds}))


def meet(here: dist.World, what: str) -> None:
    """A barrier of files: the timeout of the job is short, and machines may be busy."""
    (FOLDER / f"{what}-{here.rank}").touch()
    end = time.monotonic() + 60
    while len(list(FOLDER.glob(f"{what}-*"))) < here.size and time.monotonic() < end:
        time.sleep(0.01)


def misbehave() -> None:
    if WHAT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if WHAT == "hang":
        time.sleep(9)
        os._exit(0)
    if WHAT == "exit":
        sys.exit(0)
    if WHAT == "exception":
        raise RuntimeError("the data of this process are broken")


if __name__ == "__main__":
    main()
