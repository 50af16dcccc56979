"""The table of ``make bench-gpu``: who measures what, and what is printed of it. Nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import run
from benchmarks.gpu.rows import ROWS


def test_every_peer_of_every_row_has_one_process() -> None:
    found = [(row, by) for by, rows in run.jobs(ROWS.values(), None) for row in rows]
    assert sorted(found) == sorted((r.name, by) for r in ROWS.values() for by in (*r.ours, *r.peers))
    assert {by for by, _ in run.jobs(ROWS.values(), run.OURS)} == {by for r in ROWS.values() for by in r.ours}
    assert {by for by, _ in run.jobs(ROWS.values(), ["tessera"])} == {"tessera"}
    assert list(run.jobs([ROWS["gelu"]], ["jax"])) == [("jax", ["gelu"])]


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"tessera": 250e-6, "torch eager": 1e-3, "torch compiled": 260e-6}
    for by, seconds in times.items():
        run.keep({"row": "gelu", "by": by, "version": "1.0", "min": seconds, "median": seconds}, tmp_path, "one GPU")
    run.keep({"row": "gelu", "by": "jax", "error": "no JAX"}, tmp_path, "one GPU")
    run.keep({"row": "softmax", "by": "tessera", "version": "1.0", "min": 1e-3, "median": 2e-3}, tmp_path, "one GPU")
    run.keep({"row": "softmax", "by": "tessera", "error": "failed later"}, tmp_path, "one GPU")  # the old number stays
    page = run.page(tmp_path)
    assert "Machine: one GPU, " in page and "PyTorch 1.0, Tessera 1.0." in page
    row = next(line for line in page.splitlines() if line.startswith("| gelu"))
    assert row == (
        "| gelu(x·s + b) + r on 16384×8192 | µs | 250 | ≤ 275 | yes | 260 (torch compiled) | "
        "torch eager 1000; torch compiled 260; jax failed |"
    )
    assert "| softmax on 16384×8192 | µs | 2000 | ≤ 185 | no | – |" in page
    assert "- gelu(x·s + b) + r on 16384×8192, jax: no JAX" in page
    assert len(json.loads((tmp_path / "gelu-torch_eager.json").read_text())) == 8
    assert "250 µs (least 250)" in capsys.readouterr().out
