"""Runs the fuzzers: ``fuzz.py BUILD_FOLDER --runs N [--keep FOLDER]``.

``N`` executions, shared out over the targets, start from the corpus of the repository; what finds new code is kept in
``--keep``, else forgotten. An input that is a finding is written to ``BUILD_FOLDER/found``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARES = {"tsr": 0.45, "graph": 0.35, "dims": 0.15, "json": 0.05}
# Short stacks of allocations and a small quarantine: four times the executions, and what is found says enough.
ENVIRONMENT = {
    "ASAN_OPTIONS": "malloc_context_size=2:quarantine_size_mb=8:detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def run(target: str, build: Path, runs: int, keep: Path, seed: int) -> int:
    """The number of executions; exits when one was a finding."""
    found, kept = build / "found", keep / target
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={runs}", f"-seed={seed}", "-entropic=0", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048",
               "-malloc_limit_mb=1024", "-print_final_stats=1", f"-dict={HERE / target}.dict",
               f"-artifact_prefix={found}/{target}-"]
    command = [str(build / "tests" / "fuzz" / f"fuzz_{target}"), *options, str(kept), str(HERE / "corpus" / target)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ | ENVIRONMENT)
    if done.returncode != 0:
        sys.exit(f"{done.stderr[-6000:]}\nfuzz_{target}: a finding; the input is in {found}")
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed, done.stderr
    return int(executed.group(1))


def main() -> None:
    """Run every target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("--runs", type=int, default=60_000)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        keep, total = arguments.keep or Path(temporary), 0
        for target, share in SHARES.items():
            executed = run(target, arguments.build.resolve(), int(arguments.runs * share), keep, arguments.seed)
            print(f"fuzz_{target}: {executed} executions without a finding", flush=True)
            total += executed
    print(f"fuzz: {total} executions without a finding")


if __name__ == "__main__":
    main()
