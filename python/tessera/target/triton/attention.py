"""Attention: what is launched for its forward pass and for its gradient."""

from __future__ import annotations

import math

from tessera.ir.dims import Dim, add, bounds, ceildiv, dmin, floordiv, mul
from tessera.ir.dtype import DType, bool_, f32, i32
from tessera.target.triton.expression import Expressions, fits
from tessera.target.triton.gluon import ELEMENTS
from tessera.target.triton.head import Head, Options
from tessera.target.triton.launch import BufferArgument, Generated, MapSize, Program, TensorMapArgument
from tessera.target.triton.library import module_text
from tessera.target.triton.operand import SWIZZLE, map_size
from tessera.tile.ir import AttentionKernel

_PROGRAMS = 132
_SPAN = 64
_PART = 64 * 64
_HOPPER_SIZES = (64, 128)
_GRADIENT_MAPS = ("q_map", "g_map", "k_map", "v_map", "dk_map", "dv_map")


def generate(kernel: AttentionKernel, options: Options) -> Generated:
    """The launches of a kernel."""
    if kernel.backward:
        fast = _hopper_gradient(kernel, options) if options.architecture == "sm_90a" else None
        return _gradient(kernel, options) if fast is None else fast
    if options.architecture == "sm_90a":
        program = _hopper_forward(kernel, options)
        if program is not None:
            return Generated((program,))
    return Generated((_forward(kernel, options),))


class _Text:
    """A function of a kernel: its head, and the names and sizes that calls need."""

    def __init__(self, kernel: AttentionKernel, options: Options, suffix: str = "") -> None:
        self.kernel = kernel
        self.head = Head(kernel, options, suffix)
        self.heads, self.length, self.size = kernel.buffers[0].shape
        self.shared, self.keys = kernel.buffers[1].shape[:2]
        expressions = Expressions(self.head.writer, self.head.sizes)
        self.texts = {
            "length": expressions.text(self.length), "keys": expressions.text(self.keys),
            "heads": expressions.text(self.heads), "shared": expressions.text(self.shared),
            "group": str(group_of(kernel)),
            "factor": repr(kernel.scale * math.log2(math.e)), "scale": repr(kernel.scale),
            "causal": str(kernel.causal), "size": str(self.size),
        }

    def call(self, function: str, *names: str, **more: object) -> None:
        """A line that calls a function of the library; names of sizes stand for their text."""
        arguments = [self.texts.get(n, n) for n in names] + [f"{k}={v}" for k, v in more.items()]
        self.head.writer.line(self.head.writer.call(function, *arguments))

    def places(self, **words: Dim) -> list[str]:
        """Pointers to words of the workspace at these offsets: sums in f32, turns and counters in i32."""
        number = len(self.kernel.buffers)
        self.head.parameter("workspace", BufferArgument(number, f32))
        self.head.parameter("workspace_words", BufferArgument(number, i32))
        expressions = Expressions(self.head.writer, self.head.sizes)
        found: list[str] = []
        for name, offset in words.items():
            base = "workspace" if name in ("delta", "space") else "workspace_words"
            found.append(self.head.writer.assign(name, expressions.pointer(base, offset)))
        return found

    def blocks(self, length: Dim, block: int) -> Dim:
        """Blocks of queries or keys of one head."""
        return ceildiv(length, block)


def group_of(kernel: AttentionKernel) -> int:
    """How many query heads share a key head."""
    heads, shared = kernel.buffers[0].shape[0], kernel.buffers[1].shape[0]
    group = floordiv(heads, shared)
    assert isinstance(group, int) and mul(shared, group) == heads
    return group


def _mask(text: _Text) -> dict[str, str]:
    """What the functions are told of a mask."""
    kernel = text.kernel
    if not kernel.masked:
        return {}
    mask = kernel.buffers[-1]
    batch, own, rows, columns = (d != 1 for d in mask.shape)
    expressions = Expressions(text.head.writer, text.head.sizes)

    def step(there: bool, at: int) -> str:
        return expressions.text(mask.strides[at]) if there else "0"

    heads = floordiv(text.heads, mask.shape[0]) if batch else mask.shape[1] if own else 1
    return {
        "mask": text.head.pointers[len(kernel.buffers) - 1], "heads": expressions.text(heads),
        "batch_step": step(batch, 0), "head_step": step(own, 1), "row_step": step(rows, 2),
        "column_step": step(columns, 3), "kind": "1" if mask.dtype == bool_ else "2",
    }


def _small(options: Options) -> bool:
    """Whether shared memory is small (AMD)."""
    return options.architecture.startswith("gfx")


def _forward(kernel: AttentionKernel, options: Options) -> Program:
    text = _Text(kernel, options)
    block, width = (64, 32) if _small(options) else (64, 64)
    text.call("attention_forward", *text.head.pointers[:5], "length", "keys", "group", "factor", "causal", "size",
              block=block, width=width, **_mask(text))
    count = mul(text.heads, text.blocks(text.length, block))
    return text.head.program((count,), warps=4, stages=1 if _small(options) else 2, contract=True)


def _gradient(kernel: AttentionKernel, options: Options) -> Generated:
    """Three launches: a sum for each query, then the gradients of queries and those of keys and values."""
    workspace = BufferArgument(len(kernel.buffers), f32)
    block, width = (32, 32) if _small(options) else (64, 64)
    more = {"warps": 4, "stages": 1, "contract": True}

    prepare = _Text(kernel, options, "_prepare")
    q, k, v, out, sums, gradient, dq, dk, dv = prepare.head.pointers[:9]
    prepare.call("attention_prepare", out, gradient, prepare.head.parameter("workspace", workspace), "length", "size",
                 block=block)
    rows = mul(prepare.heads, prepare.blocks(prepare.length, block))
    queries = _Text(kernel, options, "_queries")
    queries.call("attention_gradient_queries", q, k, v, sums, gradient, dq,
                 queries.head.parameter("workspace", workspace), "length", "keys", "group", "factor", "scale", "causal",
                 "size", block=block, width=width, **_mask(queries))
    keys = _Text(kernel, options, "_keys")
    keys.call("attention_gradient_keys", q, k, v, sums, gradient, dk, dv,
              keys.head.parameter("workspace", workspace), "length", "keys", "group", "factor", "scale", "causal",
              "size", block=block, width=width, **_mask(keys))
    columns = mul(keys.shared, keys.blocks(keys.keys, block))
    programs = (
        prepare.head.program((rows,), **more), queries.head.program((rows,), **more),
        keys.head.program((columns,), **more),
    )
    return Generated(programs, mul(4, mul(prepare.heads, prepare.length)))


# Hopper.


def _map(kernel: AttentionKernel, index: int, rows: int) -> TensorMapArgument | None:
    """The tensor map of a buffer of three dimensions, for blocks of a head's rows."""
    buffer = kernel.buffers[index]
    sizes = [map_size(kernel.sizes, d) for d in (*buffer.shape, *buffer.strides)]
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes):
        return None
    size = known[2].factor
    return TensorMapArgument(index, buffer.dtype, tuple(known[:3]), tuple(known[3:]), (1, rows, size), SWIZZLE)


def _element(dtype: DType) -> str:
    return ELEMENTS[dtype]


def _hopper_forward(kernel: AttentionKernel, options: Options) -> Program | None:
    if kernel.scale <= 0:  # scores of keys that do not count are -inf before they are scaled
        return None
    text = _Text(kernel, options)
    tiles = mul(text.heads, text.blocks(text.length, 128))
    high = bounds(tiles)[1]
    if kernel.masked or text.size not in _HOPPER_SIZES or not all(map(fits, (text.heads, text.length, text.keys))):
        return None
    if high is not None and high >= 2**31 - _PROGRAMS:
        return None
    maps = [_map(kernel, i, rows) for i, rows in ((0, 128), (1, 128), (2, 128), (3, 64))]
    names = [text.head.parameter(n, m) for n, m in zip(("q_map", "k_map", "v_map", "out_map"), maps) if m is not None]
    if len(names) < len(maps):
        return None
    text.call("hopper_attention_forward", *names, text.head.pointers[4], "heads", "length", "keys", "group", "factor",
              _element(kernel.buffers[0].dtype), "causal", "size", stages=2, span=_SPAN)
    return gluon_program(text.head, dmin(tiles, _PROGRAMS))


def _hopper_gradient(kernel: AttentionKernel, options: Options) -> Generated | None:
    """Two launches. The workspace: a sum for each query; the gradient of queries in f32; turns and a counter."""
    heads, length, size = kernel.buffers[0].shape
    shared, keys = kernel.buffers[1].shape[:2]
    rows = 64 if size == 128 else 128
    blocks = mul(heads, ceildiv(length, rows))
    tiles = mul(shared, ceildiv(keys, 128))
    if kernel.masked or size not in _HOPPER_SIZES or not all(map(fits, (mul(blocks, 2), tiles, length, keys))):
        return None
    if isinstance(keys, int) and keys <= 128:  # Triton 3.6 fails on what is left when there is one block of keys
        return None
    delta = mul(blocks, 2 * _PART)
    turns = add(delta, mul(heads, length))
    prepare = _Text(kernel, options, "_prepare")
    out, gradient = prepare.head.pointers[3], prepare.head.pointers[5]
    places = prepare.places(delta=delta, turns=turns)
    prepare.call("attention_prepare_turns", out, gradient, *places, "length", "size", block=rows)

    text = _Text(kernel, options)
    maps = [_map(kernel, i, n) for i, n in ((0, rows), (5, rows), (1, 128), (2, 128), (7, 64), (8, 64))]
    names = [text.head.parameter(n, m) for n, m in zip(_GRADIENT_MAPS, maps) if m is not None]
    if len(names) < len(maps):
        return None
    parts = map_size(kernel.sizes, mul(blocks, 2))
    if parts is not None:
        lines = TensorMapArgument(
            len(kernel.buffers), f32, (parts, MapSize(_PART // 32), MapSize(32)),
            (MapSize(_PART), MapSize(32), MapSize(1)), (1, _PART // 32, 32), SWIZZLE,
        )
        names.append(text.head.parameter("space_map", lines))
    else:  # a length that is not a number times one size: the warps add without the copy engine
        names.append("None")
    dq, sums = text.head.pointers[6], text.head.pointers[4]
    delta_place, *places = text.places(delta=delta, space=0, turns=turns, counter=add(turns, blocks))
    text.call("hopper_attention_gradient", *names, dq, sums, delta_place, *places, "shared", "length", "keys", "factor",
              "scale", "group", _element(kernel.buffers[0].dtype), "causal", "size", rows=rows, span=2048 // size,
              mapped=parts is not None)
    programs = (prepare.head.program((blocks,), contract=True), gluon_program(text.head, tiles))
    return Generated(programs, mul(4, add(turns, add(blocks, 1))))


def gluon_program(head: Head, grid: Dim) -> Program:
    """The function as written, in Gluon."""
    text = "\n".join(["@gluon.jit", f"def {head.name}({', '.join(head.parameters)}):", *head.writer.lines])
    source = module_text(head.writer.functions, text, gluon=True)
    return Program(head.name, source, tuple(head.arguments), (grid, 1, 1), contract=True, gluon=True)

