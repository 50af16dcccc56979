"""GPT-2 (Radford et al., 2019) over bytes: pre-norm blocks, learned positions, the head tied to the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tessera import op


@dataclass(frozen=True)
class Config:
    """Sizes of a model. ``vocabulary`` is the number of rows of the embedding; bytes use the first 256."""

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int = 256
    dtype: str = "f32"


SIZES = {
    "tiny": Config(layers=2, width=64, heads=4, length=64),
    "small": Config(layers=6, width=384, heads=6, length=256),
    "124M": Config(layers=12, width=768, heads=12, length=1024, vocabulary=50304, dtype="bf16"),
}


class GPT2:
    """The model: ``model(tokens)`` gives logits [batch, length, vocabulary] for tokens i64[batch, length]."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.token = self._weight("token", config.vocabulary, config.width)
        self.position = self._weight("position", config.length, config.width)
        self.blocks = [Block(config, f"block{i}") for i in range(config.layers)]
        self.norm = op.layer_norm(config.width, dtype=config.dtype, name="norm")

    def _weight(self, name: str, *shape: int) -> Any:
        return op.parameter(shape, self.config.dtype, name=name, init=op.initializer.normal(0.0, 0.02))

    def __call__(self, tokens: Any) -> Any:
        x = op.take(self.token, tokens, axis=0) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.token.T

    def loss(self, tokens: Any, labels: Any) -> Any:
        """The mean cross entropy of the next byte, in f32."""
        logits = self(tokens)
        rows = op.reshape(logits, (-1, self.config.vocabulary))
        return op.cross_entropy(op.cast(rows, "f32"), op.reshape(labels, (-1,)))


class Block:
    """Attention and MLP, each added to what goes in; the second projection of each starts smaller, as in GPT-2."""

    def __init__(self, config: Config, name: str) -> None:
        self.config = config
        c, d = config, config.width

        def linear(inner: int, outer: int, what: str, std: float = 0.02) -> Any:
            return op.linear(
                inner, outer, dtype=c.dtype, name=f"{name}.{what}", init=op.initializer.normal(0.0, std)
            )

        last = 0.02 / (2 * c.layers) ** 0.5
        self.norm1 = op.layer_norm(d, dtype=c.dtype, name=f"{name}.norm1")
        self.norm2 = op.layer_norm(d, dtype=c.dtype, name=f"{name}.norm2")
        self.attend, self.mix = linear(d, 3 * d, "attend"), linear(d, d, "mix", last)
        self.up, self.down = linear(d, 4 * d, "up"), linear(4 * d, d, "down", last)

    def __call__(self, x: Any) -> Any:
        batch, length = x.shape[:2]

        def heads(y: Any) -> Any:
            return op.transpose(op.reshape(y, (batch, length, self.config.heads, -1)), (0, 2, 1, 3))

        q, k, v = map(heads, op.split(self.attend(self.norm1(x)), 3, axis=-1))
        a = op.scaled_dot_product_attention(q, k, v, causal=True)
        x = x + self.mix(op.reshape(op.transpose(a, (0, 2, 1, 3)), (batch, length, -1)))
        return x + self.down(op.gelu(self.up(self.norm2(x))))
