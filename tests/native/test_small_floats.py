"""Every 8- and 16-bit float as a wider one: zeros with their signs, subnormals, infinities and NaN."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import graph, op
from tessera.ir.dtype import DTYPES


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("wide", ["f32", "f64"])
@pytest.mark.parametrize("narrow", ["bf16", "f16", "f8e4m3", "f8e5m2"])
def test_every_code(narrow: str, wide: str, target: str) -> None:
    kind = DTYPES[narrow]
    codes = np.arange(1 << kind.bits, dtype=np.uint16 if kind.bits == 16 else np.uint8)
    values = codes.view(kind.numpy)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        expected = values.astype(DTYPES[wide].numpy)
    found = np.asarray(graph.compile(op.cast(op.tensor(values.shape, narrow, name="x"), wide), target=target)(values))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    bits = np.uint32 if wide == "f32" else np.uint64
    np.testing.assert_array_equal(found[numbers].view(bits), expected[numbers].view(bits))


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("narrow", ["bf16", "f16"])
def test_there_and_back(narrow: str, target: str) -> None:
    """A pointwise operator on every number that is exact: itself times one, and its negative."""
    kind = DTYPES[narrow]
    values = np.arange(1 << 16, dtype=np.uint16).view(kind.numpy)
    values = values[~np.isnan(values.astype(np.float32))]
    x = op.tensor(values.shape, narrow, name="x")
    found = graph.compile({"same": x * 1.0, "minus": -x}, target=target)(x=values)
    np.testing.assert_array_equal(np.asarray(found["same"]).view(np.uint16), values.view(np.uint16))
    np.testing.assert_array_equal(np.asarray(found["minus"]).view(np.uint16), (-values).view(np.uint16))
