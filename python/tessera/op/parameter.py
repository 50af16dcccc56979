"""Parameters: named mutable state of graphs, shared by every graph that uses them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from tessera.ir.dtype import DType, as_dtype
from tessera.ir.dtype import f32 as _f32
from tessera.ir.provenance import user_location
from tessera.ir.sharding import Sharding
from tessera.ir.value import PARAM, Node, TensorType, Value
from tessera.op.initializer import Initializer, InitializerLike, resolve

ALIGNMENT = 64
"""Byte alignment of a parameter's storage."""

_lock = threading.RLock()
_seed = 0
_moves = 0
_name_counts: dict[str, int] = {}


def set_initial_seed(seed: int) -> None:
    """The seed that parameters constructed from now on initialise from."""
    global _seed
    _seed = seed


def count_move() -> None:
    """A value has gone to another place, or was replaced: programs look where it is before their next run."""
    global _moves
    with _lock:
        _moves += 1


def moves() -> int:
    """How often a parameter's value went from one device to another in this process."""
    return _moves


def unique_name(base: str) -> str:
    """``base`` the first time in this process, then ``base_1``, ``base_2`` …"""
    with _lock:
        count = _name_counts.get(base, 0)
        _name_counts[base] = count + 1
    return base if count == 0 else f"{base}_{count}"


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """An uninitialised row-major NumPy array whose data begins at a multiple of 64 bytes."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(count * dtype.itemsize + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return np.ndarray(shape, dtype.numpy, buffer=raw, offset=start)


class ParameterPlacement(Protocol):
    """Where the shards of a parameter lie; ``tessera.dist`` gives it."""

    @property
    def sharding(self) -> Sharding:
        """How the parameter is split."""
        ...
    @property
    def is_used(self) -> bool:
        """Whether a shard exists already."""
        ...
    def again(self) -> ParameterPlacement:
        """The same place, for another tensor of the same shape."""
        ...
    def gather(self, parameter: Parameter) -> np.ndarray:
        """The whole value."""
        ...
    def scatter(self, parameter: Parameter, value: np.ndarray) -> None:
        """Write a whole value into all shards."""
        ...
    def reset(self, parameter: Parameter) -> None:
        """Back to the initial value."""
        ...


class Parameter:
    """A named tensor that graphs read and update in place.

    The storage is made, and initialised from (seed, name, element index), when it is first used, so that a
    large model can be described before any memory is taken. ``array`` is the runtime's array over the same
    memory, once there is one. The seed is that of the last ``tessera.manual_seed`` before construction (0 at first).
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        dtype: object = _f32,
        *,
        trainable: bool = True,
        init: InitializerLike = 0.0,
    ) -> None:
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentError(f"[parameter] name is {name!r}: it must be a string that is not empty")
        self.name = name
        self.dtype = as_dtype(dtype)
        self.shape = _static_shape(name, shape)
        if trainable and not self.dtype.is_float:
            raise DTypeError(
                f"[parameter] {name!r} is trainable and {self.dtype}: only floats have gradients; pass trainable=False"
            )
        self.trainable = trainable
        self.initializer: Initializer | np.ndarray = resolve(init, self.shape)
        if isinstance(self.initializer, np.ndarray):
            _check_array(name, self.initializer, self.shape, self.dtype, "init")
        self.array: Any = None
        self._on_device = False
        self.assigned = 0  # how often the value on a GPU was replaced from outside
        self._seed = _seed
        self._data: np.ndarray | None = None
        node = Node(
            PARAM, (), {"name": name, "trainable": trainable}, (TensorType(self.dtype, self.shape),),
            user_location(), payload=self,
        )
        self._leaf = node.results[0]
        self.placement: ParameterPlacement | None = None

    @property
    def initial_seed(self) -> int:
        """The seed from which the initial value is drawn."""
        return self._seed

    def place(self, placement: ParameterPlacement) -> None:
        """Keep the value in shards from now on. Raises UnsupportedError when it has a value already."""
        if self._data is not None or (self.placement is not None and self.placement.is_used):
            raise UnsupportedError(
                f"[parameter] {self.name!r} has storage already; give its layout before its value is first used"
            )
        self.placement = placement
        self._leaf.node.types = (TensorType(self.dtype, self.shape, placement.sharding),)

    @classmethod
    def from_array(cls, name: str, data: np.ndarray, *, trainable: bool = True) -> Parameter:
        """A parameter over ``data`` itself when that is writable, row-major and 64-byte aligned, else over a copy."""
        data = np.asarray(data)
        parameter = cls(name, data.shape, as_dtype(data.dtype), trainable=trainable)
        usable = data.flags.writeable and data.flags.c_contiguous and data.ctypes.data % ALIGNMENT == 0
        if usable:
            parameter._data = data
        else:
            parameter.value = data
        return parameter

    @property
    def is_initialized(self) -> bool:
        """Whether the storage exists already."""
        return self._data is not None or (self.placement is not None and self.placement.is_used)

    def move_to(self, array: Any) -> None:
        """From now on the value lives in ``array``, which lies on a GPU and holds it."""
        global _moves
        with _lock:
            self.array, self._on_device = array, True
            _moves += 1

    @property
    def device(self) -> str:
        """Where the value lives: ``cpu``, or the GPU of the program that changes it."""
        return self.array.device if self._on_device else "cpu"

    def storage(self) -> np.ndarray:
        """The live memory: a writable, row-major, 64-byte aligned NumPy array; initialised at the first call.

        A value that lives on a GPU comes back to the CPU for good; ``value`` copies it.
        """
        if self.placement is not None:
            raise UnsupportedError(
                f"[parameter] {self.name!r} lies in shards on a mesh: it has no storage in one piece; read .value"
            )
        if self._on_device:
            self._bring_back()
        if self._data is None:
            with _lock:
                if self._data is None:
                    data = aligned_empty(self.shape, self.dtype)
                    if isinstance(self.initializer, np.ndarray):
                        data[...] = self.initializer
                    else:
                        self.initializer.fill(data, self._seed, self.name)
                    self._data = data
        return self._data

    @property
    def value(self) -> np.ndarray:
        """A copy of the current value. Assigning writes into the storage; shape and dtype must agree.

        Accepts a NumPy array, anything with ``__array__`` or DLPack, and Python numbers and lists (converted).
        """
        if self.placement is not None:
            return self.placement.gather(self)
        return self.array.numpy() if self._on_device else np.array(self.storage())

    def _bring_back(self) -> None:
        global _moves
        with _lock:
            if self._data is None:
                self._data = aligned_empty(self.shape, self.dtype)
            self._data[...] = self.array.numpy()
            self.array, self._on_device = None, False
            _moves += 1

    @value.setter
    def value(self, value: object) -> None:
        array = _as_array(value, self.dtype)
        _check_array(self.name, array, self.shape, self.dtype, "value")
        if self.placement is not None:
            self.placement.scatter(self, array)
            return
        if self._on_device:
            self.array[...] = array
            self.assigned += 1
            count_move()
            return
        if self._data is None:
            self._data = aligned_empty(self.shape, self.dtype)
        self._data[...] = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The current value for NumPy: the live memory unless a copy or another dtype is asked for."""
        if self.placement is not None:
            live = self.placement.gather(self)
        else:
            live = self.array.numpy() if self._on_device else self.storage()
        data = live if dtype is None else live.astype(dtype, copy=False)
        return np.array(data) if copy else data

    def reset(self) -> None:
        """Back to the initial value."""
        if self.placement is not None:
            self.placement.reset(self)
            return
        data = self.storage()  # of a value on a GPU, which goes there again with the next run
        if isinstance(self.initializer, np.ndarray):
            data[...] = self.initializer
        else:
            self.initializer.fill(data, self._seed, self.name)

    def leaf(self) -> Value:
        """The graph value of this parameter: always the same one."""
        return self._leaf

    def __getstate__(self) -> dict[str, Any]:
        """A copy has storage of its own: not the runtime's array over this one's."""
        if self.placement is not None:
            raise UnsupportedError(f"[parameter] {self.name!r} lies in shards on a mesh and is not copied or pickled")
        if self._on_device:
            return {**self.__dict__, "array": None, "_on_device": False, "_data": self.value}
        return {**self.__dict__, "array": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._data is not None:
            data = aligned_empty(self.shape, self.dtype)
            data[...] = self._data
            self._data = data

    def __repr__(self) -> str:
        kind = "" if self.trainable else ", trainable=False"
        return f"Parameter({self.name!r}, {TensorType(self.dtype, self.shape)}{kind})"


def parameter(
    shape: Sequence[int],
    dtype: object = _f32,
    name: str | None = None,
    init: InitializerLike = 0.0,
    trainable: bool = True,
) -> Value:
    """A new named parameter as a tensor.

    ``shape`` holds integers. ``name`` defaults to ``parameter``, ``parameter_1`` … . ``init``: an
    ``op.initializer``, a number, an array, a name such as ``"he_normal"``, or a function of the shape. The
    ``Parameter`` itself (``.value``, ``.name``) is ``op.parameter_of(tensor)``.

    Raises ShapeError for a symbolic or negative size, DTypeError for a trainable integer, ArgumentError otherwise.
    """
    return Parameter(name or unique_name("parameter"), shape, dtype, trainable=trainable, init=init).leaf()


def parameter_of(tensor: Value) -> Parameter:
    """The ``Parameter`` behind a parameter tensor; ArgumentError for any other tensor."""
    payload = tensor.node.payload if isinstance(tensor, Value) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(payload, Parameter):
        raise ArgumentError(f"[parameter_of] {tensor!r} is not a parameter")
    return payload


def _static_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    sizes: list[int] = []
    for d in shape if isinstance(shape, (tuple, list)) else (shape,):
        if isinstance(d, (bool, float)) or not isinstance(d, (int, np.integer)):
            raise ShapeError(
                f"[parameter] {name!r}: size {d!r} of shape {shape} is not an integer; state has fixed sizes"
            )
        if d < 0:
            raise ShapeError(f"[parameter] {name!r}: size {d} of shape {tuple(shape)} is negative")
        sizes.append(int(d))
    return tuple(sizes)


def _as_array(value: object, dtype: DType) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return cast("np.ndarray", value)
    if isinstance(value, (bool, int, float, list, tuple)):
        return np.asarray(value).astype(dtype.numpy)
    if hasattr(value, "__dlpack__") and dtype.name not in {"bf16", "f8e4m3", "f8e5m2"}:
        return np.from_dlpack(value)  # type: ignore[arg-type]
    return np.asarray(value)


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: DType, what: str) -> None:
    if array.shape != shape:
        raise ShapeError(f"[parameter] {what} of {name!r} has shape {array.shape}; the parameter has shape {shape}")
    actual = as_dtype(array.dtype)
    if actual != dtype:
        raise DTypeError(
            f"[parameter] {what} of {name!r} is {actual}; the parameter is {dtype}: convert it with .astype"
        )
