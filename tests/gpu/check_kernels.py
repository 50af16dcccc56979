"""Products and attention of sizes that have kernels of their own, through the runtime, against NumPy and PyTorch."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tessera import graph, op, optim
from tessera._core import gpu_levels
from tessera.errors import IndexRangeError
from tessera.ir.value import Value
from tessera.target.triton import dot, hopper
from tessera.target.triton.hopper import Tile
from tessera.target.triton.launch import Program
from tessera.transform.autodiff import gradients

pytestmark = pytest.mark.skipif(not gpu_levels("ptx"), reason="needs an NVIDIA device")


def drawn(*shape: int) -> np.ndarray:
    """Numbers that bf16 holds exactly."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return torch.tensor(values).bfloat16().float().numpy()


def bf16(values: np.ndarray) -> np.ndarray:
    """As bf16."""
    return values.astype(ml_dtypes.bfloat16)


def assert_near(found: object, right: np.ndarray, tolerance: float = 6e-3) -> None:
    """Near in the Frobenius norm."""
    difference = np.asarray(found, dtype=np.float64) - right
    assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(right)


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(512, 1024, 1024), (200, 328, 1000), (16, 4096, 2048), (1, 4096, 2048), (256, 256, 16384), (1000, 48, 4096)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_products(m: int, n: int, k: int, turned: bool) -> None:
    a = op.tensor((m, k), "bf16", name="a")
    b = op.tensor((n, k) if turned else (k, n), "bf16", name="b")
    bias = op.tensor((n,), "f32", name="bias")
    y = op.matmul(a, op.transpose(b, [1, 0]) if turned else b)
    program = graph.compile({"y": op.relu(op.cast(y, "f32") + bias)}, target="ptx")
    x, w, c = drawn(m, k), drawn(*b.shape), drawn(n)
    right = np.maximum(x.astype(np.float64) @ (w.T if turned else w) + c, 0)
    assert_near(program(a=bf16(x), b=bf16(w), bias=c)["y"], right)


@pytest.mark.parametrize(("m", "n", "k"), [(512, 1024, 1024), (200, 336, 1040), (1, 64, 256), (130, 100, 72)])
@pytest.mark.parametrize("kinds", [("f8e4m3", "f8e4m3"), ("f8e5m2", "f8e4m3")])
def test_scaled_products(m: int, n: int, k: int, kinds: tuple[str, str]) -> None:
    a, b = op.tensor((m, k), kinds[0], name="a"), op.tensor((n, k), kinds[1], name="b")
    rows, one = op.tensor((m, 1), name="rows"), op.tensor((), name="one")
    program = graph.compile({"y": op.scaled_matmul(a, op.transpose(b, [1, 0]), rows, one)}, target="ptx")
    x, w = (drawn(*t.shape).astype(t.dtype.numpy) for t in (a, b))
    scales = np.linspace(0.5, 2, m, dtype=np.float32).reshape(m, 1)
    right = x.astype(np.float64) @ w.T.astype(np.float64) * scales * 3
    assert_near(program(a=x, b=w, rows=scales, one=np.float32(3))["y"], right)


@pytest.mark.parametrize(("rows", "sizes", "k", "n"), [
    (2048, [700, 0, 1, 1347], 256, 384), (1000, [300, 200, 100], 72, 40), (5, [0, 2, 0, 1, 0, 1, 0, 0], 64, 64),
])
def test_products_of_groups(rows: int, sizes: list[int], k: int, n: int) -> None:
    x, w = op.tensor((rows, k), "bf16", name="x"), op.tensor((len(sizes), k, n), "bf16", name="w")
    c = op.tensor((rows, n), "bf16", name="c")
    y = op.grouped_matmul(x, w, op.tensor((len(sizes),), "i64", name="sizes"))
    dx, dw = graph.backward(op.sum(y * c), [x, w])
    program = graph.compile({"y": y, "dx": dx, "dw": dw}, target="ptx")
    a, b, g = (drawn(*t.shape).astype(t.dtype.numpy) for t in (x, w, c))
    found = program(x=a, w=b, sizes=np.array(sizes), c=g)
    right = [np.zeros(t.shape) for t in (y, x, w)]
    ends = np.cumsum(sizes)
    a, b, g = (v.astype(np.float64) for v in (a, b, g))
    for i, part in enumerate(slice(e - s, e) for s, e in zip(sizes, ends, strict=True)):
        right[0][part], right[1][part] = a[part] @ b[i], g[part] @ b[i].T
        right[2][i] = a[part].T @ g[part]
    for name, value in zip(("y", "dx", "dw"), right, strict=True):
        assert_near(found[name], value)
    with pytest.raises(IndexRangeError, match="rows of this group and those before"):
        wrong = program(x=a.astype(x.dtype.numpy), w=b.astype(w.dtype.numpy), sizes=np.full(len(sizes), rows),
                        c=g.astype(c.dtype.numpy))
        np.asarray(wrong["y"])


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_products_of_widened_operands(dtype: str) -> None:
    a, b = op.tensor((256, 512), dtype, name="a"), op.tensor((512, 384), dtype, name="b")
    program = graph.compile({"y": op.matmul(op.cast(a, "f32"), op.cast(b, "f32"))}, target="ptx")
    x, w = (drawn(*t.shape).astype(t.dtype.numpy) for t in (a, b))
    assert_near(program(a=x, b=w)["y"], x.astype(np.float64) @ w.astype(np.float64), 1e-5)


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [((), 512, 1024, 768), ((), 1000, 328, 200), ((3,), 300, 520, 256), ((), 4096, 3072, 64), ((), 9000, 328, 200),
     ((3,), 1500, 512, 256), ((), 16384, 768, 128)],
)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_epilogues_with_warps_of_their_own(batch: tuple[int, ...], m: int, n: int, k: int, dtype: str) -> None:
    """GELU of a product, and its gradient in the epilogue of another product, which sums its rows if they are many."""
    x, w = op.tensor((*batch, m, k), dtype, name="x"), op.tensor((k, n), dtype, name="w")
    bias, g = op.tensor((n,), dtype, name="bias"), op.tensor((*batch, m, k), dtype, name="g")
    v = op.tensor((n, k), dtype, name="v")
    hidden = op.matmul(x, w) + bias
    y = op.gelu(hidden)
    z = op.matmul(y, v)
    found = gradients([z], [hidden, bias], [g])
    program = graph.compile({"y": y, "d": found[0], "dbias": found[1]}, target="ptx")
    kind = getattr(torch, {"bf16": "bfloat16", "f16": "float16"}[dtype])
    given = {name: torch.tensor(drawn(*t.shape)).to(kind) for name, t in (("x", x), ("bias", bias), ("g", g))}
    given |= {name: torch.tensor(drawn(*t.shape) / 8).to(kind) for name, t in (("w", w), ("v", v))}
    h = (given["x"].double() @ given["w"].double()).to(kind).double() + given["bias"].double()
    h = h.to(kind).double().requires_grad_()
    out = torch.nn.functional.gelu(h)
    out.backward((given["g"].double() @ given["v"].double().T).to(kind).double())
    result = program(**{name: t.cuda() for name, t in given.items()})
    again = program(**{name: t.cuda() for name, t in given.items()})
    assert np.asarray(result["dbias"]).tobytes() == np.asarray(again["dbias"]).tobytes()
    assert_near(np.asarray(result["y"]), out.detach().numpy())
    assert_near(np.asarray(result["d"]), h.grad.numpy())
    assert_near(np.asarray(result["dbias"]), h.grad.sum(tuple(range(len(batch) + 1))).numpy(), 1e-2)


@pytest.mark.parametrize(
    ("m", "n", "k"), [(768, 3072, 16384), (3072, 768, 16384), (768, 768, 16384), (1152, 520, 8000)]
)
def test_terms_in_parts(m: int, n: int, k: int) -> None:
    a, b = op.tensor((k, m), "bf16", name="a"), op.tensor((k, n), "bf16", name="b")
    y = op.matmul(op.transpose(a, [1, 0]), b)
    program = graph.compile({"y": y, "z": op.relu(y)}, target="ptx")
    x, w = (torch.tensor(drawn(*t.shape)).cuda().bfloat16() for t in (a, b))
    right = (x.float().T @ w.float()).double().cpu().numpy()
    first, again = (np.asarray(program(a=x, b=w)["y"]) for _ in range(2))
    assert_near(first, right)
    assert np.array_equal(first, again)


def place_updates(monkeypatch: pytest.MonkeyPatch, beside: bool, columns: int) -> list[bool]:
    """Let updates run beside products with tiles of so many columns, or not; whether each product has one beside it."""
    generate, found = hopper.generate, list[bool]()

    def generated(*given: Any) -> Program:
        found.append(given[-1])
        return generate(*given)

    monkeypatch.setattr(hopper, "generate", generated)
    monkeypatch.setattr(dot, "choose", lambda kernel: dot.Form(Tile(columns)))
    monkeypatch.setattr(dot, "is_hidden", lambda kernel, tile: beside)
    return found


@pytest.mark.parametrize("beside", [False, True])
def test_adam_in_the_epilogue_of_a_gradient(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer's update, beside the products of the next tile too, against PyTorch's."""
    place_updates(monkeypatch, beside, 256)
    start = drawn(512, 768) / 32
    weight = op.parameter((512, 768), "bf16", name=f"weight_{beside}", init=bf16(start))
    optimizer = optim.AdamW(1e-2, weight_decay=0.1)

    @graph.training_step(target="ptx")
    def step(x: object, g: object) -> object:
        loss = op.sum(op.cast(op.matmul(x, weight), "f32") * op.cast(g, "f32"))
        optimizer.apply(graph.backward(loss))
        return loss

    master = torch.nn.Parameter(torch.tensor(start))
    other = torch.optim.AdamW([master], 1e-2, weight_decay=0.1)
    for seed in range(3):
        x, g = (drawn(4096 + seed, n)[:4096] for n in (512, 768))
        step(bf16(x), bf16(g))
        master.grad = (torch.tensor(x).double().T @ torch.tensor(g).double()).bfloat16().float()
        other.step()
    found = np.asarray(op.parameter_of(weight).value, dtype=np.float32)
    assert_near(found, master.detach().bfloat16().float().numpy(), 1e-2)


def updated(optimizer: optim.Optimizer, name: str, m: int, n: int, k: int) -> list[list[np.ndarray]]:
    """A weight and an optimizer's state after each of three steps, and after one in which a check fails."""
    weight = op.parameter((m, n), "bf16", name=name, init=bf16(drawn(m, n) / 32))

    @graph.training_step(target="ptx")
    def step(x: Value, g: Value, rows: Value) -> Value:
        loss = op.sum(op.cast(op.matmul(x, weight), "f32") * op.cast(g, "f32"))
        optimizer.apply(graph.backward(loss))
        return loss + op.sum(op.take(op.cast(g, "f32"), rows, axis=0))

    found: list[list[np.ndarray]] = []
    for seed, rows in enumerate(([0, 1], [2, k - 1], [3, 3], [0, k])):
        x, g = (bf16(drawn(k + seed, size)[:k]) for size in (m, n))
        with pytest.raises(IndexRangeError) if k in rows else nullcontext():
            np.asarray(step(x, g, np.array(rows)))
        kept = (op.parameter_of(weight), *optimizer.state.values())
        found.append([np.array(p.value).reshape(-1).view(np.uint8) for p in kept])
    return found


@pytest.mark.parametrize(("kind", "m", "n", "k", "columns"), [
    ("adamw", 512, 768, 4096, 256), ("adamw", 200, 328, 1000, 256), ("adamw", 2184, 1160, 520, 256),
    ("adamw", 4096, 72, 264, 128), ("no master weights", 200, 1160, 520, 256), ("momentum", 200, 328, 1000, 256),
    ("momentum", 1160, 2184, 520, 128),
])
def test_updates_beside_products(
    kind: str, m: int, n: int, k: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits that a kernel of its own writes; nothing is written where a check has failed."""
    found: list[list[list[np.ndarray]]] = []
    for beside in (False, True):
        optimizer = {
            "adamw": lambda: optim.AdamW(1e-2, weight_decay=0.1),
            "no master weights": lambda: optim.AdamW(1e-2, master_weights=False),
            "momentum": lambda: optim.SGD(1e-2, momentum=0.9),
        }[kind]()
        with monkeypatch.context() as patch:
            used = place_updates(patch, beside, columns)
            found.append(updated(optimizer, f"weight_{beside}", m, n, k))
            assert any(used) == beside
    apart, together = found
    for one, other in zip(apart, together, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))
    for before, after in itertools.pairwise(together):
        changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
        assert not any(changed) if after is together[-1] else all(changed)


def test_heads_stored_by_products() -> None:
    """What is transposed for attention is written so by the product."""
    x, w = op.tensor((2, 256, 192), "bf16", name="x"), op.tensor((192, 192), "bf16", name="w")
    bias = op.tensor((192,), "bf16", name="bias")
    y = op.transpose(op.reshape(op.matmul(x, w) + bias, (2, 256, 3, 64)), (0, 2, 1, 3))
    program = graph.compile({"y": y}, target="ptx")
    values, weights, c = drawn(2, 256, 192), drawn(192, 192), drawn(192)
    right = (values.astype(np.float64) @ weights + c).reshape(2, 256, 3, 64).transpose(0, 2, 1, 3)
    found = program(x=bf16(values), w=bf16(weights), bias=bf16(c))["y"]
    assert_near(found, right)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("batch", "heads", "length"), [(2, 4, 256), (2, 12, 512), (1, 5, 1024), (3, 4, 160)])
def test_one_projection_of_queries_keys_and_values(batch: int, heads: int, length: int, split: bool) -> None:
    """Parts lie in one tensor, which products write and read."""
    width = heads * 64
    h, g = drawn(batch, length, width), drawn(batch, length, width)
    w, b = drawn(width, 3 * width) / 16, drawn(3 * width)
    hv, wv, bv, gv = (op.tensor(x.shape, "bf16", name=n) for n, x in zip("hwbg", (h, w, b, g)))
    y = hv @ wv + bv
    if split:
        parts = [op.reshape(p, (batch, length, heads, 64)) for p in op.split(y, 3, axis=-1)]
        q, k, v = (op.transpose(p, (0, 2, 1, 3)) for p in parts)
    else:
        t = op.transpose(op.reshape(y, (batch, length, 3, heads, 64)), (2, 0, 3, 1, 4))
        q, k, v = (t[i] for i in range(3))
    a = op.scaled_dot_product_attention(q, k, v, causal=True)
    out = op.reshape(op.transpose(a, (0, 2, 1, 3)), (batch, length, width))
    slopes = gradients([out], [hv, wv, bv], [gv])
    compiled = graph.compile({"out": out, **dict(zip("hwb", slopes))}, target="ptx")
    found = compiled.run([bf16(x) for x in (h, w, b, g)])
    leaves = [torch.tensor(x, requires_grad=True) for x in (h, w, b)]
    parts = (leaves[0] @ leaves[1] + leaves[2]).unflatten(-1, (3, heads, 64)).permute(2, 0, 3, 1, 4)
    right = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2)
    right.backward(torch.tensor(g))
    for one, reference in zip(found, [right.detach(), *(x.grad for x in leaves)]):
        assert_near(one, reference.numpy(), 1.5e-2)


@pytest.mark.parametrize(("batch", "heads", "length"), [(2, 3, 256), (3, 12, 512), (1, 5, 1024)])
def test_heads_read_by_products(batch: int, heads: int, length: int) -> None:
    """What attention leaves head by head is multiplied where it is, as rows and as terms."""
    width = heads * 64
    x = op.tensor((batch, heads, length, 64), "bf16", name="x")
    w, g = op.tensor((width, 320), "bf16", name="w"), op.tensor((batch * length, 512), "bf16", name="g")
    rows = op.reshape(op.transpose(x, (0, 2, 1, 3)), (batch * length, width))
    turned = op.transpose(rows, (1, 0))
    outputs = {
        "y": op.matmul(rows, w), "z": op.matmul(turned, g), "u": op.matmul(op.transpose(g, (1, 0)), rows),
        "s": op.sum(op.cast(rows, "f32"), axis=0),
    }
    program = graph.compile(outputs, target="ptx")
    values, weights, other = drawn(*x.shape), drawn(*w.shape), drawn(*g.shape)
    flat = values.transpose(0, 2, 1, 3).reshape(batch * length, width).astype(np.float64)
    found = program(x=bf16(values), w=bf16(weights), g=bf16(other))
    assert_near(found["y"], flat @ weights)
    assert_near(found["z"], flat.T @ other)
    assert_near(found["u"], other.T @ flat)
    assert_near(found["s"], flat.sum(0))


def test_batches_of_any_size() -> None:
    rows = op.dim("B", min=1, max=4096)
    x, w = op.tensor((rows, 512), "bf16", name="x"), op.tensor((512, 768), "bf16", name="w")
    program = graph.compile({"y": op.gelu(op.matmul(x, w))}, target="ptx")
    values = drawn(512, 768)
    for size in (1, 77, 1000, 77):
        given = drawn(size, 512)
        right = torch.nn.functional.gelu(torch.tensor(given).double() @ torch.tensor(values).double()).numpy()
        assert_near(program(x=bf16(given), w=bf16(values))["y"], right)


@pytest.mark.parametrize("mask", [(2, 1, 1, 300), (300, 300), (2, 4, 300, 1)])
def test_masked_attention(mask: tuple[int, ...]) -> None:
    """As PyTorch; a query that may attend to nothing gives zeros and takes no gradient."""
    shape = (2, 4, 300, 64)
    operands = [op.tensor(shape, "bf16", name=n) for n in "qkv"]
    out = op.scaled_dot_product_attention(*operands, op.tensor(mask, "bool", name="mask"))
    found = gradients([out], operands, [op.tensor(shape, "bf16", name="g")])
    program = graph.compile({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))}, target="ptx")
    given = {n: drawn(*shape[:-1], 64 + i)[..., :64] for i, n in enumerate("qkvg")}
    where = np.random.default_rng(3).random(mask) < 0.7
    if mask[-2] > 5:
        where[..., 5, :] = False
    results = program(mask=where, **{n: bf16(v) for n, v in given.items()})
    leaves = [torch.tensor(given[n]).double().requires_grad_() for n in "qkv"]
    scores = (leaves[0] @ leaves[1].transpose(-1, -2) / 8).masked_fill(~torch.tensor(where), -math.inf)
    none = torch.isneginf(scores).all(-1, keepdim=True)
    right = torch.where(none, 0.0, torch.softmax(scores.masked_fill(none, 0.0), -1)) @ leaves[2]
    right.backward(torch.tensor(given["g"]).double())
    assert_near(results["out"], right.detach().numpy())
    for name, leaf in zip(("dq", "dk", "dv"), leaves):
        assert leaf.grad is not None
        assert_near(results[name], leaf.grad.numpy(), 1e-2)


@pytest.mark.parametrize(
    ("q", "k", "causal"),
    [
        ((2, 4, 300, 64), (2, 2, 300, 64), True), ((1, 2, 200, 128), (1, 2, 515, 128), False),
        ((3, 130, 32), (3, 130, 32), True),
    ],
)
def test_attention(q: tuple[int, ...], k: tuple[int, ...], causal: bool) -> None:
    operands = [op.tensor(s, "bf16", name=n) for n, s in (("q", q), ("k", k), ("v", k))]
    out = op.scaled_dot_product_attention(*operands, causal=causal)
    found = gradients([out], operands, [op.tensor(q, "bf16", name="g")])
    program = graph.compile({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))}, target="ptx")
    given = {n: drawn(*s) for n, s in (("q", q), ("k", k), ("v", k), ("g", q))}
    results = [program(**{n: bf16(v) for n, v in given.items()}) for _ in range(2)]
    leaves = [torch.tensor(given[n]).double().requires_grad_() for n in "qkv"]
    group = q[-3] // k[-3]
    wide = [x.repeat_interleave(group, -3) for x in leaves[1:]]
    scores = leaves[0] @ wide[0].transpose(-1, -2) / math.sqrt(q[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    right = torch.softmax(scores, -1) @ wide[1]
    right.backward(torch.tensor(given["g"]).double())
    for name, expected in zip(("out", "dq", "dk", "dv"), (right.detach(), *(x.grad for x in leaves)), strict=True):
        assert_near(results[0][name], expected.numpy(), 1e-2)
        assert np.array_equal(np.asarray(results[0][name]), np.asarray(results[1][name]))


def logits_of(rows: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits on the device with rows of NaN and infinities, and labels at both ends, between, and to be ignored."""
    torch.manual_seed(columns)
    x = (torch.randn(rows, columns, device="cuda") * 4).to(dtype)
    x[3, 5], x[4], x[5, 1], x[6, ::3] = torch.nan, -torch.inf, torch.inf, -torch.inf
    labels = torch.randint(0, columns, (rows,), device="cuda")
    labels[:7] = torch.tensor([0, -100, columns - 1, 7, 5, 1, 1])
    return x, labels


_LONG = [
    (8192, 50304), (300, 50257), (300, 33000), (300, 24008), (200, 56000), (64, 20001), (64, 25601), (40, 128256),
    (300, 8192), (2000, 1000),
]


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize(("rows", "columns"), _LONG)
def test_cross_entropy_of_long_rows(rows: int, columns: int, dtype: str) -> None:
    """Each row's loss and gradient against PyTorch in f64, NaN and infinities where they are there, twice the same."""
    if dtype == "f32" and rows * columns > 2e8:
        pytest.skip("as large in bf16")
    logits, labels = op.tensor((rows, columns), dtype, name="logits"), op.tensor((rows,), "i64", name="labels")
    loss = op.cross_entropy(op.cast(logits, "f32"), labels, reduction="none")
    gradient, = gradients([op.sum(loss)], [logits])
    program = graph.compile({"loss": loss, "gradient": gradient}, target="ptx")
    x, y = logits_of(rows, columns, getattr(torch, {"bf16": "bfloat16", "f32": "float32"}[dtype]))
    first, again = ({k: torch.from_dlpack(v) for k, v in program(logits=x, labels=y).items()} for _ in range(2))
    assert all(torch.equal(first[k].view(torch.uint8), again[k].view(torch.uint8)) for k in first)
    for part in range(0, rows, 512):
        some = slice(part, part + 512)
        wide = x[some].double().requires_grad_()
        right = torch.nn.functional.cross_entropy(wide, y[some], reduction="none")
        right.sum().backward()
        torch.testing.assert_close(first["loss"][some].double(), right.detach(), rtol=2e-6, atol=1e-5, equal_nan=True)
        near = {"rtol": 2**-8, "atol": 1e-8} if dtype == "bf16" else {"rtol": 2e-5, "atol": 1e-9}
        torch.testing.assert_close(first["gradient"][some].double(), wide.grad, equal_nan=True, **near)


@pytest.mark.parametrize(("rows", "columns"), [(300, 24008), (200, 56000), (300, 20001)])
def test_gradient_of_long_rows(rows: int, columns: int) -> None:
    """Two rows are needed twice."""
    x, g = (op.tensor((rows, columns), "bf16", name=n) for n in "xg")
    y = op.softmax(op.cast(x, "f32"))
    gradient, = gradients([y], [x], [op.cast(g, "f32")])
    given, _ = logits_of(rows, columns, torch.bfloat16)
    above = torch.randn(rows, columns, device="cuda").bfloat16()
    wide = given.double().requires_grad_()
    torch.softmax(wide, -1).backward(above.double())
    found = torch.from_dlpack(graph.compile({"y": gradient}, target="ptx")(x=given, g=above)["y"]).double()
    torch.testing.assert_close(found, wide.grad, rtol=2**-7, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm"])
@pytest.mark.parametrize(("rows", "columns"), _LONG[1:])
def test_long_rows(name: str, rows: int, columns: int) -> None:
    x = op.tensor((rows, columns), "bf16", name="x")
    y = op.layer_norm(x) if name == "layer_norm" else getattr(op, name)(x)
    program = graph.compile({"y": y}, target="ptx")
    given, _ = logits_of(rows, columns, torch.bfloat16)
    wide = given.double()
    right = torch.nn.functional.layer_norm(wide, (columns,)) if name == "layer_norm" else getattr(torch, name)(wide, -1)
    found = torch.from_dlpack(program(x=given)["y"]).double()
    torch.testing.assert_close(found, right, rtol=2**-8, atol=2e-4 if name == "layer_norm" else 1e-8, equal_nan=True)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize(
    ("count", "rows", "width"), [(16384, 50304, 768), (5000, 3, 96), (2500, 700, 1500), (256, 9, 1)]
)
def test_scatter_of_many_rows(count: int, rows: int, width: int, dtype: str) -> None:
    """Rows with no, few and many updates; twice the same bits."""
    base, updates = op.tensor((rows, width), dtype, name="base"), op.tensor((count, width), dtype, name="updates")
    program = graph.compile({"y": op.index_add(base, op.tensor((count,), "i64", name="i"), updates)}, target="ptx")
    random = np.random.default_rng(count)
    at = np.where(random.random(count) < 0.1, random.integers(0, min(rows, 4), count), random.integers(0, rows, count))
    kind = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    x, u = (torch.tensor(drawn(n, width)).to(kind).cuda() for n in (rows, count))
    given = {"base": x, "updates": u, "i": torch.tensor(at).cuda()}
    found = [np.asarray(program(**given)["y"]) for _ in range(2)]
    assert found[0].tobytes() == found[1].tobytes()
    right = x.double().index_add(0, given["i"], u.double()).cpu().numpy()
    assert_near(found[0], right, 6e-3 if dtype == "bf16" else 1e-6)
