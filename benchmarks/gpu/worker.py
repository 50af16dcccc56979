"""One peer in one process: ``python -m benchmarks.gpu.worker VARIANT ROW...`` prints a line of JSON for each row."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import traceback
from typing import Any

from benchmarks.gpu.rows import ROWS, peer
from benchmarks.gpu.timing import Work, measure


def release(variant: str) -> None:
    """Give back what the last row used, as far as the peer lets go of it."""
    gc.collect()
    if variant.startswith("torch"):
        import torch

        torch._dynamo.reset()
        torch.cuda.empty_cache()


def one(module: Any, row: str, variant: str) -> dict[str, Any]:
    """What a row took: seconds, or the error."""
    start = time.perf_counter()
    try:
        work = module.prepare(row, variant)
        ready = time.perf_counter() - start
        found = measure(work, alone=ROWS[row].alone) if isinstance(work, Work) else {"min": work, "median": work}
    except Exception as error:  # noqa: BLE001 - a row of the table says so
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return {**found, "ready": ready}


def main() -> None:
    """Measure the rows of the command line."""
    variant, *rows = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.gpu.peers_{peer(variant)}")
    for row in rows:
        found = {"row": row, "by": variant, "version": module.version(), **one(module, row, variant)}
        print(json.dumps(found), flush=True)
        release(variant)


if __name__ == "__main__":
    main()
