"""Programs beside Tile IR: checks of ranges, and copies that do not happen once a check has failed."""

from __future__ import annotations

from tessera.ir.dims import Symbol as _Symbol
from tessera.ir.dims import ceildiv, sym
from tessera.ir.dtype import DType, i64, u8
from tessera.target.triton.launch import BufferArgument, Program, SizeArgument, StatusArgument
from tessera.target.triton.library import module_text

_BLOCK = 1024
_COPIED = 8192
COUNT = _Symbol("count", 0, None)
"""The size argument that programs of this module are launched over: elements of a check, bytes of a copy."""


def range_check(dtype: DType, ignore: int | None) -> Program:
    """Writes the first position whose value is outside [low, high] into the check's word, and sets the run's flag.

    Sizes: count, low, high.
    """
    kept = "" if ignore is None else f" & (value != {ignore})"
    name = f"check_range_{dtype.name}"
    kind = "tl.int64" if dtype == i64 else "tl.int32"
    text = f'''@triton.jit
def {name}(x, count, low, high, check, failed):
    position = tl.program_id(0).to(tl.int64) * {_BLOCK} + tl.arange(0, {_BLOCK})
    inside = position < count
    value = tl.load(x + position, mask=inside, other=0).to({kind})
    wrong = inside & ((value < low) | (value > high)){kept}
    first = tl.min(tl.where(wrong, position, {2**63 - 1}), axis=0)
    if first != {2**63 - 1}:
        tl.atomic_min(check, first)
        tl.store(failed, 1)'''
    arguments = (
        BufferArgument(0, dtype), SizeArgument(0, "i64"), SizeArgument(1, "i64"), SizeArgument(2, "i64"),
        StatusArgument("check"), StatusArgument("flag"),
    )
    return Program(name, module_text((), text), arguments, (ceildiv(sym(COUNT), _BLOCK), 1, 1))


def guarded_copy() -> Program:
    """Copies bytes from buffer 0 to buffer 1 unless a check of the run has failed. Sizes: count."""
    text = f'''@triton.jit
def copy_unless_failed(source, target, count, failed):
    if tl.load(failed) != 0:
        return
    position = tl.program_id(0).to(tl.int64) * {_COPIED} + tl.arange(0, {_COPIED})
    inside = position < count
    tl.store(target + position, tl.load(source + position, mask=inside, other=0), mask=inside)'''
    arguments = (BufferArgument(0, u8), BufferArgument(1, u8), SizeArgument(0, "i64"), StatusArgument("flag"))
    return Program("copy_unless_failed", module_text((), text), arguments, (ceildiv(sym(COUNT), _COPIED), 1, 1))
