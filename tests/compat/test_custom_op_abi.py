"""A library of operators that was built with the headers of an older release loads and runs."""

import numpy as np
import pytest
import tessera
from tessera import graph, op

from tests.compat.frozen import HEADERS, HERE, build

CURRENT = HERE.parents[1] / "runtime" / "include" / "tessera"


def test_every_version_is_kept():
    text = (CURRENT / "custom_op_abi.h").read_text()
    version = int(text.split("#define TSR_CUSTOM_ABI_VERSION ")[1].split()[0])
    assert [h.name for h in HEADERS] == [f"custom_op_abi_{i + 1}" for i in range(version)]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda h: h.name)
def test_frozen_library_runs(headers):
    names = tessera.load_library(build(headers))
    library = names[0].split("::")[0]
    assert names == [f"{library}::axpy", f"{library}::split"]
    mine = getattr(op, library)
    x, y = op.tensor(("B", 2), name="x"), op.tensor(("B", 2), name="y")
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    for target in ("cpu", "portable"):
        assert np.array_equal(graph.compile(mine.axpy(x, y, a=3.0), target=target)(values, values + 1).numpy(),
                              4 * values + 1)
        halves = graph.compile(list(mine.split(x, at=1)), target=target)(values)
        assert [h.tolist() for h in halves] == [values[:1].tolist(), values[1:].tolist()]
    slope = graph.backward(op.sum(mine.axpy(x, y, a=3.0) * x), wrt=y)
    assert np.array_equal(slope(values).numpy(), values)
    with pytest.raises(tessera.errors.ShapeError, match=rf"\[{library}::axpy\] x is f32\[B, 2\] and y is f32\[2\]"):
        mine.axpy(x, op.tensor((2,)))
    failing = graph.compile(mine.split(op.tensor((3, 2), name="x"), at=3).tail)
    with pytest.raises(tessera.errors.IndexRangeError, match=rf"\[{library}::split\] nothing is left"):
        failing(values)
