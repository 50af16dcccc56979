"""Random graphs: every kernel of their plans, native against the NumPy interpreter of Tile IR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from tessera.tile import interpret
from tessera.tile.ir import Kernel
from tessera.tile.plan import build_plan
from tessera.transform.decompose import decompose

from tests.schedule.random_graphs import random_graph
from tests.target.harness import LEVEL_NAMES, Native


def _compare(level: str, run_kernel: object) -> object:
    def both(kernel: Kernel, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], shuffle: object = None) -> None:
        before = [a.copy() for a in arrays]
        run_kernel(kernel, arrays, sizes)  # type: ignore[operator]
        native = Native(kernel, level)
        for pieces in (1, 3):
            copies: list[np.ndarray] = []
            for i, a in enumerate(arrays):  # arguments that are the same memory stay so
                same = next((j for j in range(i) if arrays[j].ctypes.data == a.ctypes.data and a.nbytes), None)
                copies.append(before[i].copy() if same is None else copies[same].view(a.dtype))
            native.run(copies, dict(sizes), pieces)
            for buffer, expected, got in zip(kernel.buffers, arrays, copies):
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9, err_msg=f"{buffer.name}\n{kernel}")

    return both


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_random_graph(seed: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values agree kernel by kernel, however the grid is split."""
    graph, random = random_graph(seed, operators=10, symbolic=seed % 2 == 0, size=[1, 3, 5, 70][seed % 4])
    plan = build_plan(decompose(graph))
    monkeypatch.setattr(interpret, "run_kernel", _compare(level, interpret.run_kernel))
    interpret.run_plan(plan, random.feeds, random.state)
