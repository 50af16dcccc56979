"""Tensors that lie in the memory of others: parts that operators take, and results that are put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import graph, op
from tessera.ir.dims import Call, Dim, Expr, Symbol, add, floordiv, mod, mul, substitute, sym
from tessera.ir.dtype import bf16, f32
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.reference import evaluate
from tessera.schedule.index import Axes, recombine
from tessera.schedule.machine import GPU
from tessera.schedule.options import Schedule
from tessera.schedule.parts import with_parts
from tessera.schedule.plan import KernelCall, Plan, PlanBuffer
from tessera.schedule.views import in_one_step, views_of
from tessera.tile.ir import AttentionKernel, DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators, to_primitives

from tests.schedule.harness import calls, check, graph_of, tensor


@op.custom("parts::twist", shape=lambda x: x, shard="*->*", dtypes=("f32",), samples=[op.Sample((op.Input((3, 4)),))])
def twist(x):
    """2 · x + 1, of and into memory."""
    return 2 * x + 1


@op.custom("parts::pair", shape=lambda x: (x, x), results=("more", "less"), shard="*->*,*", dtypes=("f32",),
           samples=[op.Sample((op.Input((3, 4)),))])
def pair(x):
    """x + 1 and x - 1."""
    return x + 1, x - 1


def projection(batch: Dim, length: Dim, heads: int, size: int, how: str) -> tuple[Graph, list[Value]]:
    """Attention over one projection, and its gradients."""
    width = heads * size
    h, g = tensor("h", batch, length, width, dtype=bf16), tensor("g", batch, length, width, dtype=bf16)
    w, b = tensor("w", width, 3 * width, dtype=bf16), tensor("b", 3 * width, dtype=bf16)
    y = h @ w + b
    if how == "einsum":
        y = op.einsum("bsi,ick->bsck", h, op.reshape(w, (width, 3, width))) + op.reshape(b, (3, width))
        q, k, v = (op.transpose(op.reshape(y[:, :, i], (batch, length, heads, size)), (0, 2, 1, 3)) for i in range(3))
    elif how == "split":
        parts = [op.reshape(p, (batch, length, heads, size)) for p in op.split(y, 3, axis=-1)]
        q, k, v = (op.transpose(p, (0, 2, 1, 3)) for p in parts)
    else:
        t = op.transpose(op.reshape(y, (batch, length, 3, heads, size)), (2, 0, 3, 1, 4))
        q, k, v = (t[i] for i in range(3))
    a = op.scaled_dot_product_attention(q, k, v, causal=True)
    out = op.reshape(op.transpose(a, (0, 2, 1, 3)), (batch, length, width))
    slopes = gradients([out], [h, w, b], [g])
    return graph_of(out, *slopes, inputs=[h, w, b, g]), [h, w, b, g]


def gpu_plan(made: Graph) -> Plan:
    return build_plan(to_gpu_operators(made), None, GPU)


def moves(plan: Plan) -> list[str]:
    """The kernels that only move elements."""
    return [name for name in calls(plan) if set(name.split("_")) <= {"transpose", "slice", "concat", "pad", "add"}]


def inside(part: PlanBuffer, whole: PlanBuffer) -> bool:
    """Whether a buffer lies in another."""
    assert isinstance(part.offset, int) and isinstance(whole.offset, int)
    assert isinstance(part.bytes, int) and isinstance(whole.bytes, int)
    return whole.offset <= part.offset and part.offset + part.bytes <= whole.offset + whole.bytes


@pytest.mark.parametrize("how", ["split", "transpose", "einsum"])
def test_projection_without_copies(how: str) -> None:
    """Nothing is copied between products and attention; what is copied is the caller's, in another order."""
    made, _ = projection(4, 512, 12, 64, how)
    plan = gpu_plan(made)
    kinds = [plan.kernels[i.kernel] for i in plan.instructions]  # type: ignore[union-attr]
    assert sum(isinstance(k, DotKernel) for k in kinds) == 3
    assert sum(isinstance(k, AttentionKernel) for k in kinds) == 2
    assert moves(plan) == ["transpose", "transpose"]
    forward, backward = (i for i in plan.instructions if isinstance(plan.kernels[i.kernel], AttentionKernel))
    wholes = [b for b in plan.buffers if b.kind == "arena" and b.bytes == 3 * 4 * 512 * 768 * 2]
    assert len(wholes) == 2
    for taken, whole in ((forward.buffers[:3], wholes[0]), (backward.buffers[-3:], wholes[1])):
        parts = [plan.buffers[n] for n in taken]
        assert all(p.within is not None and plan.buffers[p.within] is whole for p in parts)
        assert all(inside(p, whole) for p in parts)
        offsets = [p.offset - whole.offset for p in parts]  # type: ignore[operator]
        assert offsets == [i * 4 * 512 * 768 * 2 for i in range(3)]


def test_symbolic_batches_have_parts_too() -> None:
    batch = op.dim("B", min=1, max=64)
    made, _ = projection(batch, 512, 12, 64, "split")
    plan = gpu_plan(made)
    assert moves(plan) == ["transpose", "transpose"]


def test_parts_at_odd_places_are_copied() -> None:
    """Parts begin at multiples of 64 bytes, as all memory does."""
    x = tensor("x", 3, 5)
    made = graph_of(*(twist(op.exp(x)[i]) for i in range(3)), inputs=[x])
    plan = build_plan(to_primitives(made))
    assert len([b for b in plan.buffers if b.kind == "arena"]) >= 3
    assert all(isinstance(b.offset, int) and b.offset % 64 == 0 for b in plan.buffers if b.kind == "arena")


def test_parts_have_no_memory_of_their_own() -> None:
    x = tensor("x", 4, 64)
    made = graph_of(op.concat([twist(op.exp(x)[i : i + 1]) for i in range(4)], 0) * 3.0, inputs=[x])
    plan = build_plan(to_primitives(made))
    assert plan.arena == 2 * 4 * 64 * 4
    assert len(calls(plan)) == 2


def test_what_the_caller_holds_is_no_part() -> None:
    """An output and a new state are written where the caller wants them; a part of an input is copied."""
    x = tensor("x", 2, 64)
    y = twist(x[0:1])
    joined = op.concat([y, twist(op.exp(x[1:2]))], 0)
    plan = build_plan(to_primitives(graph_of(y, joined, inputs=[x])))
    outputs = {t.buffer for t in plan.outputs}
    assert len(outputs) == 2 and all(plan.buffers[n].kind == "output" for n in outputs)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_what_is_put_together_is_not_chosen_element_by_element(turned: bool, kept: bool) -> None:
    """A view of what is put together reads one tensor, not all of them; parts that have to lie elsewhere are moved."""
    x = tensor("x", 32, 48)
    parts = [twist(x * (i + 1.0)) for i in range(4)]
    joined = op.concat([op.transpose(p) if turned else p for p in parts], 1)
    outputs = (joined, parts[2]) if kept else (joined,)
    plan = build_plan(to_primitives(graph_of(*outputs, inputs=[x])))
    stores = [k for i in plan.instructions if isinstance(i, KernelCall) for k in [plan.kernels[i.kernel]]]
    assert all(sum(b.role == "in" for b in k.buffers) <= 1 for k in stores)
    odd = op.concat([op.transpose(twist(x[:31, :47] * (i + 1.0))) for i in range(4)], 1)
    plan = build_plan(to_primitives(graph_of(odd, inputs=[x])))
    stores = [k for i in plan.instructions if isinstance(i, KernelCall) for k in [plan.kernels[i.kernel]]]
    assert all(sum(b.role == "in" for b in k.buffers) <= 1 for k in stores)


def test_a_part_of_two_tensors_is_moved_for_one_of_them() -> None:
    x = tensor("x", 32, 48)
    a, b, c = (twist(x * (i + 1.0)) for i in range(3))
    plan = build_plan(to_primitives(graph_of(op.concat([a, b], 1), op.concat([c, a], 1), inputs=[x])))
    stores = [k for i in plan.instructions if isinstance(i, KernelCall) for k in [plan.kernels[i.kernel]]]
    assert all(sum(b.role == "in" for b in k.buffers) <= 1 for k in stores)


def test_budgets_that_parts_by_themselves_fit_in() -> None:
    """A tensor in which others lie is there as long as any of them."""
    x = tensor("x", 64, 4096)
    whole = op.exp(x)
    total = op.sum(twist(whole[0:1]))
    for i in range(1, 64):
        total = total + op.sum(twist(whole[i : i + 1]))
    primitives = to_primitives(graph_of(total, inputs=[x]))
    arena = build_plan(primitives).arena
    assert isinstance(arena, int) and arena > 64 * 4096 * 4
    within = build_plan(primitives, Schedule(memory_budget=64 * 4096 * 4)).arena
    assert isinstance(within, int) and within <= 64 * 4096 * 4


def test_reshapes_of_nothing_with_symbolic_sizes() -> None:
    batch = op.dim("B", min=1)
    x = tensor("x", 0, batch, 3)
    made = graph_of(op.reshape(op.exp(x), (batch, 3, 0)), twist(op.reshape(x, (batch, 0))), inputs=[x])
    assert build_plan(to_primitives(made), None, GPU).arena == 0


sizes = st.sampled_from([1, 2, 3, 16, 32])


@st.composite
def programs(draw: st.DrawFn) -> Graph:
    """Tensors that are cut and put together in every way around operators in memory."""
    x = tensor("x", draw(sizes), draw(sizes), draw(sizes))
    known: list[Value] = [x, op.exp(x)]
    for _ in range(draw(st.integers(1, 8))):
        v = draw(st.sampled_from(known))
        kind = draw(st.sampled_from(["twist", "pair", "split", "index", "concat", "join", "views", "scale", "pad"]))
        axis = draw(st.integers(0, v.ndim - 1)) if v.ndim else 0
        if kind == "twist":
            known.append(twist(v))
        elif kind == "pair":
            known += pair(v)
        elif kind == "split" and v.ndim and isinstance(v.shape[axis], int) and v.shape[axis] % 2 == 0:
            known += map(twist, op.split(v, 2, axis))
        elif kind == "index" and v.ndim > 1 and v.shape[0] != 0:
            known += [twist(v[i]) for i in range(min(3, int(v.shape[0])))]
        elif kind == "concat" and v.ndim:
            others = [o for o in known if o.shape == v.shape]
            known.append(op.concat([draw(st.sampled_from(others)) for _ in range(draw(st.integers(2, 3)))], axis))
        elif kind == "join" and v.ndim:
            parts = [op.transpose(twist(o)) for o in known if o.shape == v.shape][:3]
            known.append(op.concat(parts, axis))
        elif kind == "views":
            known.append(op.transpose(op.reshape(v, (-1, v.shape[-1] if v.ndim else 1))))
        elif kind == "scale":
            known.append(v * 0.5)
        elif kind == "pad" and v.ndim:
            low = [(0, 0)] * v.ndim
            first, second = list(low), list(low)
            first[axis], second[axis] = (0, int(v.shape[axis])), (int(v.shape[axis]), 0)
            known.append(op.pad(twist(v), first) + op.pad(v, second))
        known = [k for k in known if isinstance(k.size, int) and k.size <= 1 << 16]
    chosen = draw(st.lists(st.sampled_from(known[1:] or known), min_size=1, max_size=4))
    return graph_of(*dict.fromkeys([known[-1], *chosen]), inputs=[x])


@settings(max_examples=120, deadline=None)
@given(programs())
def test_programs_of_parts(made: Graph) -> None:
    """As the references say, run twice: nothing is written over what is needed."""
    x = made.inputs[0]
    data = np.random.default_rng(3).standard_normal(x.shape).astype(np.float32)
    right = evaluate(made, {"x": data})
    compiled = graph.compile(made.outputs)
    for _ in range(2):
        found = compiled.run([data])
        for name, value in zip(made.outputs, found, strict=True):
            np.testing.assert_allclose(np.asarray(value), right[name], rtol=2e-5, atol=2e-5, err_msg=name)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_chains_of_views_in_one_step(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4)))
    x = tensor("x", *shape)
    v = x
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            v = op.transpose(v, data.draw(st.permutations(range(v.ndim))))
        else:
            v = op.reshape(v, data.draw(st.sampled_from(regroupings(int(v.size)))))
    short = in_one_step(v)
    values = np.arange(x.size, dtype=np.float32).reshape(shape)
    found = evaluate(graph_of(v, short, inputs=[x]), {"x": values})
    assert short.shape == v.shape and np.array_equal(found["y0"], found["y1"])
    assert short is v or len(views_of(short)[1]) <= 3


def regroupings(size: int) -> list[tuple[int, ...]]:
    """Some shapes of a size."""
    found: list[tuple[int, ...]] = [(size,), (1, size)]
    for a in (2, 3, 4, 6):
        if size % a == 0:
            found += [(a, size // a), (size // a, a)]
            found += [(a, b, size // a // b) for b in (2, 3) if size // a % b == 0]
    return found


def test_views_of_symbolic_sizes() -> None:
    batch = op.dim("B", min=1)
    x = tensor("x", batch, 8, 6)
    v = op.reshape(op.transpose(op.reshape(op.transpose(x, (1, 0, 2)), (8, batch, 2, 3)), (1, 2, 0, 3)), (batch, 48))
    short = in_one_step(v)
    values = np.arange(2 * 48, dtype=np.float32).reshape(2, 8, 6)
    found = evaluate(graph_of(v, short, inputs=[x]), {"x": values})
    assert [n.op for n in views_of(short)[1]] == ["reshape", "transpose", "reshape"]
    assert np.array_equal(found["y0"], found["y1"])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_sums_of_padded_parts_are_put_together(order: tuple[int, ...]) -> None:
    """The gradients of parts; in any order, with margins left, and one that overlaps is added as it is."""
    x = tensor("x", 3, 4)
    part = [op.pad(x * (i + 1.0), ((0, 0), (4 * i, 12 - 4 * i))) for i in range(4)]
    terms = [part[i] for i in order]
    total = with_parts(graph_of(terms[0] + terms[1] + terms[2], inputs=[x]))
    ops = [n.op for n in total.nodes()]
    assert ops.count("concat") == 1 and ops.count("pad") == 1 and "add" not in ops
    overlapping = with_parts(graph_of(part[0] + part[1] + part[1], inputs=[x]))
    assert "add" in [n.op for n in overlapping.nodes()]
    check(graph_of(terms[0] + terms[1] + terms[2], part[0] + part[1] + part[1], part[0] + part[2], inputs=[x]))


def test_padded_with_another_number_is_no_part() -> None:
    x = tensor("x", 4, dtype=f32)
    total = op.pad(x, ((0, 4),), value=1.0) + op.pad(x, ((4, 0),))
    assert "concat" not in [n.op for n in with_parts(graph_of(total, inputs=[x])).nodes()]


def test_digits_are_put_together_again() -> None:
    x = sym(Symbol("x", 0, 2303))
    parts = mod(x, 768)
    assert recombine(add(mul(mod(floordiv(x, 64), 12), 64), mod(x, 64))) == parts
    assert Axes().remainder(parts, 64) == mod(x, 64) and Axes().divide(parts, 64) == mod(floordiv(x, 64), 12)
    high, middle = floordiv(x, 768), mod(floordiv(x, 64), 12)
    assert recombine(add(mul(high, 768), add(mul(middle, 64), mod(x, 64)))) == x
    nested = sym(Call("floordiv", floordiv(x, 64), 12))
    whole = recombine(add(mul(nested, 768), add(mul(middle, 64), mod(x, 64))))
    assert isinstance(whole, Expr)
    assert all(substitute(whole, {next(iter(x.terms))[0][0]: n}) == n for n in (0, 63, 64, 767, 768, 2303))
