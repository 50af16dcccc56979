"""Calls of the portable C++ kernels from tests: one primitive, or the canonical text of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tessera.ir.attribute import attributes_text


def run_text(name: str, attributes: str, arrays: Sequence[np.ndarray], threads: int = 0) -> list[np.ndarray]:
    """The results of a primitive whose attributes are given as text of Graph IR."""
    from tessera import _core
    from tessera.interop.array import as_array, to_numpy

    return [to_numpy(a) for a in _core.run_primitive(name, attributes, [as_array(a) for a in arrays], threads)]


def run(name: str, *arrays: np.ndarray, threads: int = 0, **attrs: Any) -> np.ndarray:
    """The result of a primitive."""
    return run_text(name, attributes_text(attrs), arrays, threads)[0]


def normalize(text: str) -> str:
    """Graph text, read and printed in C++."""
    from tessera import _core

    return _core.normalize_graph_text(text)
