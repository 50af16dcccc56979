"""The rows by JAX."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.gpu.timing import Work

WIDTH, HIDDEN, BATCH = 4096, 8192, 8192
Tree = Any
_KEY = jax.random.key(0)


def version() -> str:
    """The version measured."""
    return jax.__version__


def drawn(*shape: int, scale: float = 1.0, dtype: Any = jnp.bfloat16) -> jax.Array:
    """Normal numbers."""
    return (jax.random.normal(_KEY, shape, jnp.float32) * scale).astype(dtype)


def numbers(most: int, *shape: int) -> jax.Array:
    """Integers below ``most``."""
    return jax.random.randint(_KEY, shape, 0, most)


def work(call: Callable[[], Any]) -> Work:
    """A call, whose result is waited for."""
    return Work(call, jax.block_until_ready)


class Stepper:
    """A step whose state goes round."""

    def __init__(self, step: Callable[..., Any], state: Tree, *given: jax.Array) -> None:
        self.step, self.state, self.given = step, state, given

    def __call__(self) -> jax.Array:
        """One step; the loss."""
        self.state, loss = self.step(self.state, *self.given)
        return loss


def mlp() -> Tree:
    """Parameters of the guide's MLP."""
    return [(drawn(WIDTH, HIDDEN, scale=0.02), drawn(HIDDEN)), (drawn(HIDDEN, WIDTH, scale=0.02), drawn(WIDTH))]


def forward(parameters: Tree, x: jax.Array) -> jax.Array:
    """The guide's MLP."""
    (w1, b1), (w2, b2) = parameters
    return jax.nn.relu(x @ w1 + b1) @ w2 + b2


def entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross entropy."""
    logits = logits.astype(jnp.float32)
    rows = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    return rows.mean()


class Updated(NamedTuple):
    """A parameter and its moments after a step."""

    parameter: jax.Array
    m: jax.Array
    v: jax.Array


def adamw(state: Tree, gradients: Tree, rate: float, decay: float, betas: tuple[float, float]) -> Tree:
    """AdamW of (parameters, m, v, step), computed in f32 and stored in the dtypes that the state has."""
    parameters, m, v, step = state
    t = step + 1
    first, second = (1 - b ** t.astype(jnp.float32) for b in betas)

    def one(p: jax.Array, g: jax.Array, m: jax.Array, v: jax.Array) -> Updated:
        g32 = g.astype(jnp.float32)
        m32 = betas[0] * m + (1 - betas[0]) * g32
        v32 = betas[1] * v + (1 - betas[1]) * g32 * g32
        q = p.astype(jnp.float32) * (1 - rate * decay) - rate / first * m32 / (jnp.sqrt(v32 / second) + 1e-8)
        return Updated(q.astype(p.dtype), m32.astype(m.dtype), v32.astype(v.dtype))

    found = jax.tree.map(one, parameters, gradients, m, v)
    leaves = [x for triple in jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, Updated)) for x in triple]
    tree = jax.tree.structure(parameters)
    return (*(jax.tree.unflatten(tree, leaves[i::3]) for i in range(3)), t)


def fresh(parameters: Tree) -> Tree:
    """State of AdamW, the moments in the parameters' dtypes."""
    m, v = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    return parameters, m, v, jnp.zeros((), jnp.int32)


def mlp_training(adam: bool) -> Work:
    """Loss and gradients, perhaps with AdamW on parameters and moments in bf16."""
    x, labels = drawn(BATCH, WIDTH), numbers(WIDTH, BATCH)
    loss = jax.value_and_grad(lambda p, x, labels: entropy(forward(p, x), labels))
    if not adam:
        run, parameters = jax.jit(loss), mlp()
        return work(lambda: run(parameters, x, labels))

    def step(state: Tree, x: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        value, gradients = loss(state[0], x, labels)
        return adamw(state, gradients, 1e-4, 0.01, (0.9, 0.999)), value

    return work(Stepper(jax.jit(step, donate_argnums=0), fresh(mlp()), x, labels))


def mlp_inference(batch: int) -> Work:
    """The MLP alone."""
    run, parameters, x = jax.jit(forward), mlp(), drawn(batch, WIDTH)
    return work(lambda: run(parameters, x))


LAYERS, SIZE, HEADS, LENGTH, WORDS = 12, 768, 12, 1024, 50304


def gpt2_parameters() -> Tree:
    """Parameters of GPT-2 small, in f32."""
    def weight(*shape: int) -> jax.Array:
        return drawn(*shape, scale=0.02, dtype=jnp.float32)

    def norm() -> dict[str, jax.Array]:
        return {"w": jnp.ones(SIZE), "b": jnp.zeros(SIZE)}

    def linear(inner: int, outer: int) -> dict[str, jax.Array]:
        return {"w": weight(inner, outer), "b": jnp.zeros(outer)}

    def block() -> Tree:
        return {"norm1": norm(), "norm2": norm(), "qkv": linear(SIZE, 3 * SIZE), "mix": linear(SIZE, SIZE),
                "up": linear(SIZE, 4 * SIZE), "down": linear(4 * SIZE, SIZE)}

    return {"token": weight(WORDS, SIZE), "position": weight(LENGTH, SIZE), "norm": norm(),
            "blocks": [block() for _ in range(LAYERS)]}


def gpt2_loss(parameters: Tree, tokens: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross entropy, computed in bf16."""
    p = jax.tree.map(lambda w: w.astype(jnp.bfloat16), parameters)

    def norm(x: jax.Array, p: Tree) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5)
        return (y * p["w"] + p["b"]).astype(x.dtype)

    def linear(x: jax.Array, p: Tree) -> jax.Array:
        return x @ p["w"] + p["b"]

    x = p["token"][tokens] + p["position"]
    for one in p["blocks"]:
        qkv = linear(norm(x, one["norm1"]), one["qkv"]).reshape(*x.shape[:2], 3, HEADS, SIZE // HEADS)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        x = x + linear(y.reshape(x.shape), one["mix"])
        x = x + linear(jax.nn.gelu(linear(norm(x, one["norm2"]), one["up"]), approximate=False), one["down"])
    logits = norm(x, p["norm"]) @ p["token"].T
    return entropy(logits.reshape(-1, WORDS), labels.reshape(-1))


def gpt2() -> tuple[Any, tuple[Any, ...]]:
    """The compiled training step, not traced yet, and what it takes."""
    def step(state: Tree, tokens: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        value, gradients = jax.value_and_grad(gpt2_loss)(state[0], tokens, labels)
        length = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
        factor = jnp.minimum(1.0, 1.0 / (length + 1e-6))
        gradients = jax.tree.map(lambda g: g * factor, gradients)
        return adamw(state, gradients, 6e-4, 0.1, (0.9, 0.95)), value

    windows = numbers(WORDS, 16, LENGTH + 1)
    return jax.jit(step, donate_argnums=0), (fresh(gpt2_parameters()), windows[:, :-1], windows[:, 1:])


def gpt2_step() -> Work:
    """A training step, which has to learn its batch."""
    one = Stepper(*((found := gpt2())[0], *found[1]))
    losses = [float(one()) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.5, f"the loss does not fall: {losses}"
    return work(one)


def compile_seconds() -> float:
    """Traced, lowered and compiled."""
    step, given = gpt2()
    jax.block_until_ready(given)
    start = time.perf_counter()
    step.lower(*given).compile()
    return time.perf_counter() - start


def norm(x: jax.Array, s: jax.Array, b: jax.Array) -> jax.Array:
    """Layer norm, computed in f32."""
    y = x.astype(jnp.float32)
    y = y - y.mean(1, keepdims=True)
    return (y * jax.lax.rsqrt((y * y).mean(1, keepdims=True) + 1e-5) * s + b).astype(x.dtype)


def loop(row: str) -> Work:
    """A kernel bound by memory."""
    shape = (16384, 8192)
    x, s, b = drawn(*shape), drawn(shape[1]), drawn(shape[1])
    if row == "gelu":
        run, r = jax.jit(lambda x, s, b, r: jax.nn.gelu(x * s + b, approximate=False) + r), drawn(*shape)
        return work(lambda: run(x, s, b, r))
    functions: dict[str, Callable[..., jax.Array]] = {
        "softmax": lambda x, s, b: jax.nn.softmax(x, 1), "layer_norm": norm, "column_sum": lambda x, s, b: x.sum(0),
    }
    run = jax.jit(functions[row])
    return work(lambda: run(x, s, b))


def cross_entropy() -> Work:
    """Loss and gradient of the logits."""
    logits, labels = drawn(8192, 50304), numbers(50304, 8192)
    run = jax.jit(jax.value_and_grad(entropy))
    return work(lambda: run(logits, labels))


def attention(row: str) -> Work:
    """Causal attention by cuDNN, perhaps with its gradients."""
    q = k = v = g = drawn(4, 4096, 16, 128)

    def out(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")

    if row == "attention":
        run = jax.jit(out)
        return work(lambda: run(q, k, v))
    both = jax.jit(lambda q, k, v, g: jax.vjp(out, q, k, v)[1](g))
    return work(lambda: both(q, k, v, g))


def prepare(row: str, _: str) -> Work | float:
    """The work of a row, or what it took."""
    if row in ("mlp_gradients", "mlp_adamw"):
        return mlp_training(row == "mlp_adamw")
    if row.startswith("mlp_"):
        return mlp_inference(int(row.split("_")[1]))
    if row == "gpt2_step":
        return gpt2_step()
    if row.startswith("compile"):
        return compile_seconds()
    if row == "cross_entropy":
        return cross_entropy()
    return attention(row) if row.startswith("attention") else loop(row)
