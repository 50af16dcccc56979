"""Bodies for ``shard_map`` in JAX, run in a process of its own with eight CPU devices: results and gradients to a file."""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, shard_map
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

jax.config.update("jax_enable_x64", True)
MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("dp", "tp"))


def contracted(x, w):
    return jnp.tanh(lax.psum(x @ w, "tp"))


def gathered(x, w):
    return x @ lax.all_gather(w, "tp", axis=0, tiled=True) + lax.all_gather(w, "tp", axis=0, tiled=True).sum()


def scattered(x, w):
    return lax.psum_scatter(jnp.sin(x) @ w, "tp", scatter_dimension=1, tiled=True)


def exchanged(x, w):
    return lax.all_to_all(x * x, "tp", split_axis=0, concat_axis=1, tiled=True) * w.sum()


def numbered(x, w):
    return x * (1 + lax.axis_index("dp") * 4 + lax.axis_index("tp")) * w[0, 0]


def permuted(x, w):
    return lax.ppermute(x @ w, "tp", [(0, 1), (1, 3), (3, 2)]) * lax.ppermute(x[:, :1], ("dp", "tp"), [(i, 7 - i) for i in range(8)])


def both(x, w):
    return lax.psum((x[:, :2] @ w) ** 2, ("dp", "tp")) / 8


CASES = {
    "contracted": (contracted, (P("dp", "tp"), P("tp")), P("dp")),
    "gathered": (gathered, (P(("dp", "tp")), P("tp")), P(("dp", "tp"))),
    "scattered": (scattered, (P("dp", "tp"), P("tp")), P("dp", "tp")),
    "exchanged": (exchanged, (P("dp", "tp"), P()), P(("dp", "tp"))),
    "numbered": (numbered, (P("dp", "tp"), P()), P("dp", "tp")),
    "permuted": (permuted, (P("dp", "tp"), P("tp")), P(("dp", "tp"))),
    "both": (both, (P("dp", "tp"), P("tp")), P()),
}


def main(source: str, target: str) -> None:
    arrays = np.load(source)
    x, w = arrays["x"], arrays["w"]
    found = {}
    for name, (body, given, out) in CASES.items():
        mapped = shard_map(body, mesh=MESH, in_specs=given, out_specs=out)

        def loss(x, w, mapped=mapped):
            y = mapped(x, w)
            return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum()

        found[name] = mapped(x, w)
        found[f"{name} x"], found[f"{name} w"] = jax.grad(loss, (0, 1))(x, w)
    np.savez(target, **{k: np.asarray(v) for k, v in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
