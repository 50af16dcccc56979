"""OpDef: everything about an operator in one place, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.errors import NameMissingError, TesseraError
from tessera.ir.provenance import Location, user_location
from tessera.ir.type_rule import set_type_rule
from tessera.ir.value import Node, TensorType, Value
from tessera.op.lowering import Composite, Lowering

Attrs = Mapping[str, Any]
Infer = Callable[[tuple[TensorType, ...], Attrs], "TensorType | tuple[TensorType, ...]"]
Vjp = Callable[[Node, tuple["Value | None", ...]], "Sequence[Value | None] | None"]


@dataclass(frozen=True, slots=True)
class NoVjp:
    """There is no gradient, for this reason; integer results and index operands need none."""

    reason: str


def no_vjp(reason: str) -> NoVjp:
    """States why an operator has no gradient."""
    return NoVjp(reason)


@dataclass(frozen=True, slots=True)
class Input:
    """How a sample makes one operand.

    ``shape``; ``kind``: ``"float"`` (the dtype under test), ``"any"`` (the dtype under test, float or
    integer), ``"bool"``, ``"index"`` (i64 in [low, high)), or a fixed dtype name; values are drawn
    uniformly from [low, high).
    """

    shape: tuple[int, ...]
    kind: str = "float"
    low: float = -2.0
    high: float = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One test case of an operator: operands, attributes, whether its gradient is checked, tolerance factor."""

    inputs: tuple[Input, ...]
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    grad: bool = True
    tolerance: float = 1.0


@dataclass(frozen=True, slots=True)
class OpDef:
    """The one definition of an operator.

    infer      operand types and attributes → result type(s); raises ShapeError or DTypeError.
    vjp        (node, gradient per result, None where zero) → gradient per operand (None: no gradient),
               built with operators; or ``no_vjp(reason)``; for a composite, None: follows from the body (the
               function may give None too).
    shard      factor string such as ``"bik,bkj->bij"`` or a function (types, attrs) → string (see below).
    lower      a declaration from ``tessera.op.lowering``.
    reference  NumPy arrays and attributes → NumPy array or tuple; the oracle. None for a composite
               follows from the body.
    samples    function without arguments → list of Sample.
    dtypes     dtypes (of the tested operands) for which the operator is defined.

    A factor string names the dimensions of each operand and result: ``operands->results``, tensors separated by
    commas, one letter per dimension, equal letters for dimensions that are split together.

    - ``*`` stands for any number of dimensions that align elementwise from the right, as in NumPy broadcasting
      (a dimension of size 1 is whole): ``"*,*->*"``.
    - A letter that no result has is combined: each device holds a partial result. ``;max`` (``min``, ``prod``) after
      the results names how; the default is a sum: ``"ab->a;max"``.
    - A letter that only results have is computed on each device from its global index: ``"->ab"``.
    - ``!`` after a letter: this dimension must be whole (not split) there: ``"ab!->ab!"``.
    - A scalar is the empty string: ``"k!->"``.
    """

    name: str
    infer: Infer | None
    vjp: Vjp | NoVjp | None
    shard: str | Callable[[tuple[TensorType, ...], Attrs], str]
    lower: Lowering
    reference: Callable[..., Any] | None
    samples: Callable[[], list[Sample]]
    dtypes: tuple[str, ...]
    doc: str = ""

    @property
    def is_composite(self) -> bool:
        """Whether the operator is defined by a graph of others."""
        return isinstance(self.lower, Composite)


REGISTRY: dict[str, OpDef] = {}
"""All operators by name."""


def register(definition: OpDef) -> OpDef:
    """Add a definition to the registry; a name can be given once."""
    if definition.name in REGISTRY:
        raise NameMissingError(f"operator {definition.name!r} is already registered")
    REGISTRY[definition.name] = definition
    return definition


def get(name: str) -> OpDef:
    """The definition of an operator; NameMissingError when there is none."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise NameMissingError(f"unknown operator {name!r}") from None


def infer_types(name: str, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    """Result types of an operator; a composite's follow from its body when it has no ``infer``."""
    definition = get(name)
    # A type rule that gives an operand's type as the result's does not mean its sharding.
    if any(t.sharding is not None for t in types):
        types = tuple(TensorType(t.dtype, t.shape) for t in types)
    if definition.infer is not None:
        result = definition.infer(types, attrs)
        return result if isinstance(result, tuple) else (result,)
    assert isinstance(definition.lower, Composite)
    placeholders = [Node("input", (), {"name": f"_{i}"}, (t,)).results[0] for i, t in enumerate(types)]
    values = definition.lower.body(*placeholders, **attrs)
    return tuple(v.type for v in (values if isinstance(values, tuple) else (values,)))


set_type_rule(infer_types)


def apply(
    name: str, operands: Sequence[Value], attrs: Attrs | None = None, loc: Location | None = None
) -> tuple[Value, ...]:
    """Build a node: infer its types, record the user's line, and name both in an error."""
    attrs = dict(attrs or {})
    loc = loc or user_location()
    try:
        types = infer_types(name, tuple(v.type for v in operands), attrs)
    except TesseraError as error:
        if loc is not None and not getattr(error, "located", False):
            error.args = (f"{error.args[0]}\n  at {loc}", *error.args[1:])
            error.located = True  # type: ignore[attr-defined]
        raise
    return Node(name, operands, attrs, types, loc).results


def build(name: str, /, *operands: Value, **attrs: Any) -> Value:
    """The result of a new node of an operator with one result."""
    return apply(name, operands, attrs)[0]
