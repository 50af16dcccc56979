"""Attention as cuDNN computes it: without a mask, with or without its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tessera.ir.dims import Dim, add, bounds, ceildiv, floordiv, mul
from tessera.ir.dtype import DType, bf16, f16, f32
from tessera.target.triton.attention import group_of
from tessera.target.triton.head import Options
from tessera.tile.ir import AttentionKernel, LoopKernel

_SIZES = (64, 128)
_SCRATCH = 64 << 20
"""Bytes that the library may ask for beside what the sizes tell."""
_MOST_SCORES = 512 << 20
"""Bytes of scores up to which they may lie in memory, for a gradient that is the same in every run."""
_MOST_HEADS = 65535
"""Heads, with the batch: the library has a row of blocks for each, and devices take so many rows."""
_SCALES = 2.0**-126, 2.0**127
"""Where scales lie: the library may scale behind the causal mask, whose -inf is then of another sign, or no number."""
_SUMS = 4
"""Which of the buffers holds the logarithms of sums."""


@dataclass(frozen=True, slots=True)
class LibraryAttention:
    """Attention, or its gradient, over the sizes of the kernel that it stands for, whose buffers it has in their order.

    All tensors are contiguous. ``deterministic``: a gradient of the same bits in every run. ``scratch``: bytes that the
    library may ask for. No kernel runs behind the call, so that there is no ``rest`` and no ``workspace`` of it.
    """

    dtype: DType
    heads: Dim
    shared: Dim
    length: Dim
    keys: Dim
    size: int
    scale: float
    causal: bool
    gradient: bool
    deterministic: bool
    scratch: Dim
    rest: LoopKernel | None = None
    workspace: Dim = 0

    def instruction(self, here: Callable[[Dim], int | str], operand: Callable[[int, DType], Any]) -> dict[str, Any]:
        """What a plan says of the call. ``here``: sizes where it is; ``operand``: a buffer of the kernel."""
        attrs: dict[str, Any] = {
            "batch": 1, "heads": here(self.heads), "shared": here(self.shared), "length": here(self.length),
            "keys": here(self.keys), "size": self.size, "scale": self.scale,
        }
        attrs |= {"causal": True} if self.causal else {}
        attrs |= {"deterministic": True} if self.deterministic else {}
        inputs, results = (6, 3) if self.gradient else (3, 2)
        tensors = [operand(i, f32 if i == _SUMS else self.dtype) for i in range(inputs + results)]
        return {
            "function": "attention_gradient" if self.gradient else "attention", "attrs": attrs,
            "operands": tensors[:inputs], "results": tensors[inputs:], "scratch": here(self.scratch),
        }


def library_attention(kernel: AttentionKernel, options: Options) -> LibraryAttention | None:
    """The attention of a kernel as a call; None where the library cannot do it as the options ask.

    A call knows nothing of the checks that a guarded kernel looks at. The library's usual gradient adds up what blocks
    of keys bring in the order in which they come. The other, on Hopper, has the scores in memory.
    """
    q, k = kernel.buffers[:2]
    heads, length, size = q.shape
    shared, keys = k.shape[:2]
    if kernel.masked or options.guarded or size not in _SIZES or q.dtype not in (bf16, f16):
        return None
    if any(b.role == "inout" for b in kernel.buffers) or not _SCALES[0] <= kernel.scale <= _SCALES[1]:
        return None
    if bounds(heads)[0] > _MOST_HEADS:  # more, where the size is known at the run alone, are seen there
        return None
    deterministic = kernel.backward and options.deterministic
    scores = mul(2, mul(heads, mul(mul(ceildiv(length, 64), 64), mul(ceildiv(keys, 128), 128))))
    if deterministic:
        high = bounds(scores)[1]
        if options.architecture != "sm_90a" or high is None or high > _MOST_SCORES:
            return None
    scratch: Dim = _SCRATCH
    if kernel.backward:
        rows = mul(heads, length)
        scratch = add(scratch, mul(4, mul(rows, int(size) + 1)))
        scratch = add(scratch, scores if deterministic else mul(4, mul(rows, int(size))))
        if group_of(kernel) > 1:
            scratch = add(scratch, mul(8, mul(mul(heads, keys), int(size))))
    return LibraryAttention(
        q.dtype, heads, shared, length, keys, int(size), kernel.scale, kernel.causal, kernel.backward, deterministic,
        scratch,
    )


def attention_text(kernel: AttentionKernel) -> str:
    """``64 x 4096 x 4096 x 128 bf16, causal``: heads with the batch, queries, keys, elements of a head."""
    q, k = kernel.buffers[:2]
    heads, length, size = q.shape
    words = [f"{heads} x {length} x {k.shape[1]} x {size} {q.dtype.name}"]
    if group_of(kernel) > 1:
        words.append(f"{floordiv(heads, k.shape[0])} heads for one of keys")
    return ", ".join([*words, *(["causal"] if kernel.causal else [])])
