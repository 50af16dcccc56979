"""Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011) as LLVM IR."""

from __future__ import annotations

from tessera.ir.dtype import DType, f64
from tessera.target.cpu.emit import Builder, Val

_M = (0xD2511F53, 0xCD9E8D57)
_W = (0x9E3779B9, 0xBB67AE85)


def _low(b: Builder, x: Val) -> Val:
    return b.convert("trunc", x, "i32")


def _high(b: Builder, x: Val) -> Val:
    return b.convert("trunc", x.lshr(32), "i32")


def uniform(b: Builder, seed: Val, counter: Val, operation: Val, element: Val, dtype: DType) -> Val:
    """A uniform number in [0, 1) of f32 or f64 for the i64 ``element``; see docs/decisions/0001-contracts.md."""
    n = max(seed.n, counter.n, element.n)
    seed, counter, operation, element = (b.broadcast(v, n) for v in (seed, counter, operation, element))
    k0, k1 = _low(b, seed), _high(b, seed)
    c = [_low(b, element), _high(b, element), _low(b, operation), _low(b, counter)]
    for step in range(10):
        if step:
            k0, k1 = k0 + _W[0], k1 + _W[1]
        p0 = b.convert("zext", c[0], "i64") * _M[0]
        p1 = b.convert("zext", c[2], "i64") * _M[1]
        c = [_high(b, p1) ^ c[1] ^ k0, _low(b, p1), _high(b, p0) ^ c[3] ^ k1, _low(b, p0)]
    if dtype == f64:
        word = (b.convert("zext", c[0], "i64") << 32) | b.convert("zext", c[1], "i64")
        # 53 bits in two exact pieces: few levels convert 64-bit integers
        top = b.convert("sitofp", b.convert("trunc", word.lshr(38), "i32"), "double")
        bottom = b.convert("sitofp", b.convert("trunc", word.lshr(11) & ((1 << 27) - 1), "i32"), "double")
        return (top * 2.0**27 + bottom) * 2.0**-53
    return b.convert("sitofp", c[0].lshr(8), "float") * 2.0**-24
