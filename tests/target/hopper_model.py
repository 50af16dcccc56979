"""A model of one Hopper device, on which generated Gluon programs run as Python: warps with parts of their own as
threads, barriers, shared memory, the copy engine and the matrix units.

What is asynchronous on the device happens either at once or as late as a program allows (``late``): products when they
are waited for, copies to shared memory a moment after they are asked for, copies from it when their end is waited for.
A program that is right gives the same in both. Layouts, proxies and fences are not modelled.
"""

from __future__ import annotations

import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from tessera.target.triton.launch import BufferArgument, Program, SizeArgument, TensorMapArgument

PATIENCE = 8.0
"""Seconds without progress after which a program is taken to wait for ever."""
DTYPES = {
    "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "int64": np.int64, "int32": np.int32,
    "int16": np.int16, "float8e4nv": ml_dtypes.float8_e4m3fn, "float8e5": ml_dtypes.float8_e5m2,
}


class T:
    """A tensor in registers, or a number."""

    def __init__(self, data: Any) -> None:
        self.data = np.asarray(data)

    def to(self, kind: Any, bitcast: bool = False) -> T:
        return T(self.data.view(DTYPES[kind]) if bitcast else self.data.astype(DTYPES[kind]))

    def __getitem__(self, at: Any) -> T:
        return T(self.data[at])

    def reshape(self, shape: Sequence[int]) -> T:
        return T(self.data.reshape(shape))

    def permute(self, order: Sequence[int]) -> T:
        return T(self.data.transpose(order))

    def split(self) -> tuple[T, T]:
        return T(self.data[..., 0]), T(self.data[..., 1])

    @property
    def type(self) -> Any:
        return SimpleNamespace(layout=None)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def __neg__(self) -> T:
        return T(-self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __index__(self) -> int:
        return int(self.data)


def _operator(name: str, swapped: bool) -> Callable[[T, Any], Any]:
    function = getattr(operator, f"__{name}__")

    def apply(self: T, other: Any) -> Any:
        if isinstance(other, Pointer):
            return NotImplemented
        a, b = self.data, other.data if isinstance(other, T) else other
        with np.errstate(all="ignore"):
            return T(function(b, a) if swapped else function(a, b))

    return apply


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "xor", "and_", "or_", "lshift", "rshift"):
    _name = _name.rstrip("_")
    setattr(T, f"__{_name}__", _operator(_name, False))
    setattr(T, f"__r{_name}__", _operator(_name, True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(T, f"__{_name}__", _operator(_name, False))


class Pointer:
    """Places in memory: a flat array and element numbers."""

    def __init__(self, array: np.ndarray, at: Any = 0) -> None:
        self.array, self.at = array, at

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.array, self.at + (offset.data if isinstance(offset, T) else offset))


class Block:
    """A view of shared memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def index(self, at: Any) -> Block:
        return Block(self.array[int(at)])

    def slice(self, start: int, length: int, dim: int = 0) -> Block:
        return Block(self.array[(slice(None),) * dim + (slice(start, start + length),)])

    def permute(self, order: Sequence[int]) -> Block:
        return Block(self.array.transpose(order))

    def _reinterpret(self, kind: str, shape: Sequence[int], layout: Any) -> Block:
        flat = self.array.reshape(-1)
        assert np.shares_memory(flat, self.array)
        if len(shape) == 2 and shape[1] > self.array.shape[-1]:  # parts of rows, which lie one after the other
            parts = shape[1] // self.array.shape[-1]
            return Parts(self.array.reshape(parts, shape[0], self.array.shape[-1]))
        return Block(flat.view(DTYPES[kind])[: int(np.prod(shape))].reshape(shape))

    def load(self, layout: Any = None) -> T:
        return T(self.array.copy())

    def store(self, value: T) -> None:
        assert self.array.shape == value.data.shape, (self.array.shape, value.data.shape)
        self.array[...] = value.data


class Parts(Block):
    """A matrix in shared memory in parts of its rows, which products read."""

    def __init__(self, parts: np.ndarray, turned: bool = False) -> None:
        self.parts, self.turned = parts, turned

    @property
    def array(self) -> np.ndarray:  # type: ignore[override]
        count, rows, columns = self.parts.shape
        whole = self.parts.transpose(1, 0, 2).reshape(rows, count * columns)
        return whole.T if self.turned else whole

    def permute(self, order: Sequence[int]) -> Block:
        assert tuple(order) == (1, 0)
        return Parts(self.parts, not self.turned)


class Barrier:
    """An mbarrier: a phase ends when all have arrived and all bytes are there."""

    def __init__(self) -> None:
        self.count = self.left = self.bytes = self.phase = 0


class Later:
    """A product that may still be under way."""

    def __init__(self, compute: Callable[[], np.ndarray]) -> None:
        self.compute, self.value = compute, None

    def run(self) -> None:
        self.value = self.compute()


class Map:
    """A tensor map: a tensor in memory, and the block that is copied at once."""

    layout = None

    def __init__(self, array: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> None:
        size = array.itemsize
        bits = array.reshape(-1).view(f"u{size}")  # ``as_strided`` does not know all dtypes
        self.view = np.lib.stride_tricks.as_strided(bits, shape, [s * size for s in strides]).view(array.dtype)

    def _inside(self, at: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        assert len(at) == len(shape) == self.view.ndim and all(a >= 0 for a in at)
        ends = [max(a, min(a + n, d)) for a, n, d in zip(at, shape, self.view.shape)]
        return tuple(map(slice, at, ends)), tuple(slice(0, e - a) for a, e in zip(at, ends))

    def read(self, at: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        there, here = self._inside(at, shape)
        out = np.zeros(shape, self.view.dtype)
        out[here] = self.view[there]
        return out

    def write(self, at: Sequence[int], block: np.ndarray, add: bool) -> None:
        there, here = self._inside(at, block.shape)
        self.view[there] = self.view[there] + block[here] if add else block[here]


class Device:
    """Runs programs. All threads share one lock: one of them works at a time, and lets others go on where it waits."""

    def __init__(self, late: bool) -> None:
        self.late = late
        self.moved = threading.Condition()
        self.failure: BaseException | None = None
        self.here = threading.local()

    def run(self, program: Program, arrays: Sequence[np.ndarray], sizes: Sequence[int] = (), grid: int = 1) -> None:
        """All programs of a grid at once, on flat arrays of the buffers, the workspace last."""
        arguments: list[Any] = []
        for a in program.arguments:
            if isinstance(a, BufferArgument):
                arguments.append(Pointer(arrays[a.index].reshape(-1).view(a.dtype.numpy)))
            elif isinstance(a, SizeArgument):
                arguments.append(T(sizes[a.index]))
            else:
                assert isinstance(a, TensorMapArgument)
                shape, strides = ([n.factor * (1 if n.index is None else sizes[n.index]) for n in x]
                                  for x in (a.shape, a.strides))
                arguments.append(Map(arrays[a.index].reshape(-1).view(a.dtype.numpy), shape, strides))
        entry = self._names(program)[program.name]
        for thread in self._start([lambda n=n: self._program(n, grid, lambda: entry(*arguments)) for n in range(grid)]):
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _program(self, number: int, count: int, work: Callable[[], None]) -> None:
        self.here.program, self.here.count = number, count
        work()

    def _start(self, works: Sequence[Callable[[], None]]) -> list[threading.Thread]:
        """Each in a thread that holds the lock whenever it works."""
        def guarded(work: Callable[[], None]) -> None:
            with self.moved:
                try:
                    self.here.products, self.here.copies = deque(), []
                    work()
                    self._end_copies(visible=True)
                except BaseException as error:  # noqa: BLE001 - raised by ``run``
                    self.failure = self.failure or error
                self.moved.notify_all()

        threads = [threading.Thread(target=guarded, args=(w,), daemon=True) for w in works]
        for t in threads:
            t.start()
        return threads

    def until(self, condition: Callable[[], bool]) -> None:
        """Let other threads go on until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.failure is not None:
                raise RuntimeError("another thread failed")
            if self.moved.wait(0.5):  # something happened
                end = time.monotonic() + PATIENCE
            elif time.monotonic() > end:
                raise TimeoutError("a program waits for ever")

    # What programs call.

    def _specialise(self, works: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], *_: Any) -> None:
        number, count = self.here.program, self.here.count
        left = [len(works)]

        def part(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
            self._program(number, count, lambda: function(*arguments))
            left[0] -= 1

        self._start([lambda f=f, a=a: part(f, a) for f, a in works])
        self.until(lambda: left[0] == 0)

    def _load(self, p: Pointer, mask: Any = None, other: Any = 0, cache_modifier: str = "") -> T:
        at = np.asarray(p.at)
        if mask is None:
            return T(p.array[at])
        inside = np.broadcast_to(mask.data, at.shape)
        found = np.full(at.shape, other, p.array.dtype)
        found[inside] = p.array[at[inside]]
        return T(found)

    def _store(self, p: Pointer, value: T, mask: Any = None) -> None:
        at, data = np.broadcast_arrays(np.asarray(p.at), value.data)
        inside = np.ones(at.shape, bool) if mask is None else np.broadcast_to(mask.data, at.shape)
        p.array[at[inside]] = data[inside]

    def _atomic_add(self, p: Pointer, value: int, sem: str = "") -> T:
        before = p.array[p.at].copy()
        p.array[p.at] += value
        return T(before)

    def _allocate(self, kind: str, shape: Sequence[int], layout: Any) -> Any:
        if layout == "barrier":
            barriers = [Barrier() for _ in range(shape[0])]
            return SimpleNamespace(index=lambda i: barriers[int(i)]) if len(shape) > 1 else barriers[0]
        size = int(np.prod(shape))
        memory = np.full(size * np.dtype(DTYPES[kind]).itemsize, 0xFF, np.uint8)  # NaN
        return Block(memory.view(DTYPES[kind]).reshape(shape))

    def _init(self, barrier: Barrier, count: int) -> None:
        barrier.count = barrier.left = count

    def _arrive(self, barrier: Barrier, count: int = 1, pred: Any = True) -> None:
        if pred:
            assert barrier.left >= count, "more arrive than a barrier expects"
            barrier.left -= count
            self._turn(barrier)

    def _expect(self, barrier: Barrier, size: int, pred: Any = True) -> None:
        if pred:
            barrier.bytes += int(size)
            self._arrive(barrier)

    def _turn(self, barrier: Barrier) -> None:
        if barrier.left == 0 and barrier.bytes == 0:
            barrier.phase, barrier.left = barrier.phase + 1, barrier.count
            self.moved.notify_all()

    def _wait(self, barrier: Barrier, parity: Any) -> None:
        self.until(lambda: barrier.phase % 2 != int(parity))
        if self.late:  # others go first
            self.moved.wait(1e-4)

    def _bring(self, tensor: Map, at: Sequence[Any], barrier: Barrier, to: Block, pred: Any = True) -> None:
        if not pred:
            return
        place = [int(a) for a in at]

        def copy() -> None:
            to.array[...] = tensor.read(place, to.array.shape)
            barrier.bytes -= to.array.nbytes
            self._turn(barrier)

        if not self.late:
            copy()
            return

        def some_time() -> None:
            time.sleep(2e-4)
            with self.moved:
                copy()

        threading.Thread(target=some_time, daemon=True).start()

    def _send(self, tensor: Map, at: Sequence[Any], block: Block, add: bool = False) -> None:
        self.here.copies.append([tensor, [int(a) for a in at], block.array, add, False])
        if not self.late:
            self._end_copies(visible=True)

    def _end_copies(self, visible: bool) -> None:
        """Shared memory has been read; with ``visible`` it is in memory, too."""
        for copy in self.here.copies:
            if not copy[4]:
                copy[2], copy[4] = copy[2].copy(), True
        if visible:
            for tensor, at, block, add, _ in self.here.copies:
                tensor.write(at, block, add)
            self.here.copies.clear()

    def _multiply(self, a: Any, b: Block, c: Any, use_acc: bool = True, is_async: bool = False) -> Later:
        def compute() -> np.ndarray:
            before = c.value if isinstance(c, Later) else c.data
            assert before is not None, "a product adds to one that is not there"
            left = (a.array if isinstance(a, Block) else a.data).astype(np.float32)
            with np.errstate(all="ignore"):
                found = left @ b.array.astype(np.float32)
                return (found + before if use_acc else found).astype(np.float32)

        later = Later(compute)
        if self.late:
            self.here.products.append(later)
        else:
            later.run()
        return later

    def _wait_products(self, left: int, deps: Sequence[Any]) -> Any:
        while len(self.here.products) > left:
            self.here.products.popleft().run()
        found = [x if isinstance(x, T) else x if x.value is None else T(x.value) for x in deps]
        return found[0] if len(found) == 1 else tuple(found)

    def _turn_of(self, p: Pointer) -> T:
        self.moved.wait(4e-3 if self.late else 1e-3)
        if self.failure is not None:
            raise RuntimeError("another thread failed")
        return T(p.array[p.at].copy())

    def _pass_turn_on(self, p: Pointer, turn: Any) -> None:
        self._end_copies(visible=True)
        p.array[p.at] = int(turn)
        self.moved.notify_all()

    def _names(self, program: Program) -> dict[str, Any]:
        """The functions of a program, over this device."""
        source = "\n".join(
            line for line in program.source.split("\n") if not line.startswith(("import ", "from ", "@")))
        kinds = {k: k for k in DTYPES}
        layouts = ("NVMMASharedLayout", "NVMMADistributedLayout", "SliceLayout", "BlockedLayout", "DotOperandLayout",
                   "SwizzledSharedLayout")

        def data(x: Any) -> Any:
            return x.data if isinstance(x, T) else x

        def cdiv(a: Any, b: Any) -> Any:
            return -(-a // b) if not isinstance(a, T) else T(-(-a.data // data(b)))

        language = SimpleNamespace(
            **kinds, **{name: lambda *_, **__: None for name in layouts}, constexpr=None,
            program_id=lambda _: T(self.here.program), num_programs=lambda _: T(self.here.count), cdiv=cdiv,
            arange=lambda a, b, layout=None: T(np.arange(a, b)), static_range=range, load=self._load, store=self._store,
            zeros=lambda shape, kind, layout=None: T(np.zeros(shape, DTYPES[kind])), atomic_add=self._atomic_add,
            where=lambda c, a, b: T(np.where(c.data, data(a), data(b))),
            maximum=lambda a, b, propagate_nan=None: T(np.maximum(data(a), data(b))),
            minimum=lambda a, b, propagate_nan=None: T(np.minimum(data(a), data(b))), log2=lambda x: T(np.log2(x.data)),
            abs=lambda x: T(np.abs(x.data)), fma=lambda a, b, c: a * b + c, sqrt_rn=lambda x: T(np.sqrt(x.data)),
            div_rn=lambda a, b: a / b, join=lambda a, b: T(np.stack([a.data, b.data], -1)),
            full=lambda shape, value, kind, layout=None: T(np.full(shape, value, DTYPES[kind])),
            max=lambda x, axis: T(x.data.max(axis)), sum=lambda x, axis: T(x.data.sum(axis)),
            convert_layout=lambda x, layout, assert_trivial=False: x, allocate_shared_memory=self._allocate,
            warp_specialize=self._specialise, thread_barrier=lambda: None,
        )
        names: dict[str, Any] = {
            "__name__": "hopper_model",
            "libdevice": SimpleNamespace(copysign=lambda a, b: T(np.copysign(a.data, b.data))),
            "range": lambda *ends: map(T, range(*map(int, ends))), "tl": language,
            "core": SimpleNamespace(PropagateNan=SimpleNamespace(ALL=None, NONE=None)), "gluon": SimpleNamespace(),
            "mbarrier": SimpleNamespace(MBarrierLayout=lambda: "barrier", init=self._init, arrive=self._arrive,
                                        expect=self._expect, wait=self._wait),
            "tma": SimpleNamespace(
                async_copy_global_to_shared=self._bring, async_copy_shared_to_global=self._send,
                store_wait=lambda _: self._end_copies(visible=False)),
            "hopper": SimpleNamespace(
                fence_async_shared=lambda: None, warpgroup_mma=self._multiply, warpgroup_mma_init=lambda x: x,
                warpgroup_mma_wait=self._wait_products),
        }
        exec(source, names)  # noqa: S102
        names |= {
            "power_of_two": lambda x: T(np.exp2(x.data.astype(np.float32))), "zero_of_the_moment": lambda: T(0),
            "turn_of": self._turn_of, "pass_turn_on": self._pass_turn_on, "add_four": _add_four,
            "reduce_from_shared": lambda tensor, at, block: self._send(tensor, at, block, add=True),
        }
        return names


def _add_four(p: Pointer, *values: T) -> None:
    for i, v in enumerate(values):
        np.add.at(p.array, np.asarray(p.at) + i, v.data)
