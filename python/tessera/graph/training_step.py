"""``@graph.training_step``: a Python function that runs as one program."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from tessera.errors import ArgumentError, UnsupportedError
from tessera.graph import tree
from tessera.graph.backward import Gradients
from tessera.graph.compile import compile_graph, resolve_targets
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options
from tessera.graph.signature import TreeSignature
from tessera.graph.substitute import SizeRangeError
from tessera.graph.trace import array_type, is_array, targets_of, trace
from tessera.ir.dims import Dim, Symbol, sym, symbols
from tessera.ir.value import Value
from tessera.op.parameter import Parameter
from tessera.schedule.options import Schedule

if TYPE_CHECKING:
    from tessera.optim.optimizer import Optimizer


class TrainingStep:
    """A function of arrays, traced and compiled once for each set of shapes, dtypes and Python values.

    Calling it runs forward pass, gradients and state updates as one program and returns what the function
    returns, with concrete arrays in the place of tensors. Python side effects happen when it is traced only.
    """

    def __init__(self, function: Callable[..., Any], options: Options, *, dynamic_batch: bool | Dim = False) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = getattr(function, "__name__", "step")
        self._function = function
        self._options = options
        self._batch: Symbol | None = None
        self._dynamic_batch = dynamic_batch
        self._declared_batch = not isinstance(dynamic_batch, bool)
        if dynamic_batch is not False:
            self._batch = Symbol("batch", min=1) if dynamic_batch is True else _symbol(dynamic_batch)
        self._programs: dict[Any, Compiled] = {}

    def __get__(self, instance: Any, owner: type | None = None) -> TrainingStep:
        """As a method: a step of each instance, made at its first use and kept in the instance."""
        if instance is None:
            return self
        function = self._function.__get__(instance)  # type: ignore[attr-defined]
        bound = TrainingStep(function, self._options, dynamic_batch=self._dynamic_batch)
        vars(instance)[self._function.__name__] = bound
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on concrete arrays, nested in dicts, lists, tuples and dataclasses."""
        leaves = tree.leaves([*args, *kwargs.values()])
        options = self._options
        targets = options.targets or targets_of(leaf for _, leaf in leaves if is_array(leaf))
        key = (len(args), targets, *kwargs, *self._key(leaves))
        compiled = self._programs.get(key)
        if compiled is None:
            compiled = self._programs[key] = self._compile(replace(options, targets=targets), args, kwargs)
        return compiled.call([leaf for _, leaf in leaves if is_array(leaf)])

    @property
    def compilations(self) -> int:
        """How many programs the calls needed so far."""
        return len({id(c) for c in self._programs.values()})

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters and other state, by name, of the programs that the calls needed so far."""
        return {name: p for compiled in self._programs.values() for name, p in compiled.parameters.items()}

    def _key(self, leaves: list[tuple[tree.Path, Any]]) -> tuple[Any, ...]:
        """What a program is specialised for."""
        parts: list[Any] = []
        rows: Dim | None = None
        for path, leaf in leaves:
            if is_array(leaf):
                kind = array_type(leaf)
                shape = kind.shape
                if self._batch is not None and shape:
                    rows = shape[0] if rows is None else rows
                    shape = (self._batch, *shape[1:]) if shape[0] == rows else shape
                parts.append((path, kind.dtype.name, shape))
            elif isinstance(leaf, Value):
                raise ArgumentError(
                    f"{self.__name__}: call a step with concrete arrays; graph.compile takes symbolic ones"
                )
            else:
                parts.append((path, type(leaf), leaf))
        try:
            hash(key := tuple(parts))
        except TypeError:
            raise ArgumentError(
                f"{self.__name__}: an argument that is no array must be hashable: the step is compiled for its value"
            ) from None
        return key

    def _compile(self, options: Options, examples: tuple[Any, ...], named: Mapping[str, Any]) -> Compiled:
        """What ``graph.compile(step, …)`` does."""
        batch = self._batch
        while True:
            try:
                traced = trace(self._function, examples, dict(named), batch=batch)
            except SizeRangeError as error:
                narrowed = None if batch is None or error.given != sym(batch) else _common(batch, error.symbol)
                if narrowed in (None, batch) or self._declared_batch:
                    raise
                batch = narrowed
            else:
                return compile_graph(traced.graph, TreeSignature(traced), options)

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"{self.__name__}: a training step is not copied or pickled; graph.compile(step, …).save(path) keeps it"
        )

    def __repr__(self) -> str:
        return f"<training step {self.__name__}>"


def _common(a: Symbol, b: Symbol) -> Symbol | None:
    """The first symbol, limited to sizes that are legal for both; None when there are none."""
    top = min((m for m in (a.max, b.max) if m is not None), default=None)
    low = max(a.min, b.min)
    return None if top is not None and top < low else Symbol(a.name, low, top, math.lcm(a.multiple_of, b.multiple_of))


def _symbol(dim: Dim | bool) -> Symbol:
    """The symbol that ``dynamic_batch`` names."""
    found = symbols(dim)
    if len(found) != 1 or dim != sym(found[0]):
        raise ArgumentError(f"training_step: dynamic_batch must be True, False or an op.dim, not {dim!r}")
    return found[0]


@overload
def training_step(function: Callable[..., Any], /) -> TrainingStep: ...
@overload
def training_step(
    *,
    optimizer: Optimizer | None = None,
    dynamic_batch: bool | Dim = False,
    schedule: Schedule | None = None,
    target: str | None = None,
) -> Callable[[Callable[..., Any]], TrainingStep]: ...
def training_step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    optimizer: Optimizer | None = None,
    dynamic_batch: bool | Dim = False,
    schedule: Schedule | None = None,
    target: str | None = None,
) -> Any:
    """Make a function of arrays a step that runs as one program; use as ``@graph.training_step`` or with arguments.

    ``optimizer``: the function returns ``grads`` or ``(grads, result)``; the optimizer applies the gradients in the
    same program, and the step returns ``result`` (or None). ``dynamic_batch``: the leading dimension of all arrays
    that have as many rows as the first one is symbolic, so that every batch size uses one program; True, or an
    ``op.dim`` that bounds it. ``target``: what it is compiled for; None: the kind of GPU on which an array of the
    arguments lies, else the CPU.
    """
    options = Options(resolve_targets(target), schedule or Schedule())

    def decorate(body: Callable[..., Any]) -> TrainingStep:
        applied = body if optimizer is None else _with_optimizer(body, optimizer)
        return TrainingStep(applied, options, dynamic_batch=dynamic_batch)

    return decorate if function is None else decorate(function)


def _with_optimizer(function: Callable[..., Any], optimizer: Optimizer) -> Callable[..., Any]:
    """The function with its gradients applied."""

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        returned = function(*args, **kwargs)
        grads, result = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if not isinstance(grads, Gradients):
            raise ArgumentError(
                f"{function.__name__}: with optimizer=… the step must return grads or (grads, result), "
                f"where grads comes from graph.backward; it returned {type(returned).__name__}"
            )
        optimizer.apply(grads)
        return result

    return body
