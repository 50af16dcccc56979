"""One peer, one workload, one process: prints the timings as JSON and writes the results as .npz."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time

import numpy as np

from benchmarks.cpu.workloads import WORKLOADS, measure

MODULES = {"tessera": "peers_tessera", "torch": "peers_torch", "jax": "peers_jax", "onnxruntime": "peers_onnxruntime"}


def main() -> None:
    """Measure one peer on one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, choices=MODULES)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--work", required=True, choices=WORKLOADS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--results", required=True, help="the .npz file to write")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["TESSERA_THREADS"] = str(arguments.threads)
    work = WORKLOADS[arguments.work]()
    begin = time.perf_counter()
    peer = importlib.import_module(f"benchmarks.cpu.{MODULES[arguments.peer]}")
    if arguments.variant == "c++":
        row = peer.measure_cpp(work, arguments.threads, arguments.seconds, arguments.results)
        print(json.dumps(row))
        return
    prepared = peer.prepare(work, arguments.threads, arguments.variant)
    prepared.call()
    first = time.perf_counter() - begin
    np.savez(arguments.results, **prepared.result())
    print(json.dumps({**measure(prepared.call, arguments.seconds), "first": first, "version": peer.version()}))


if __name__ == "__main__":
    main()
