"""One process of several: every collective gives the bits and the traffic that devices of one process give."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
from tessera import dist
from tessera._core import Array, LocalGroup
from tessera.dist import Mesh
from tessera.dist.placement import shard_ranges
from tessera.interop.array import to_numpy
from tessera.ir.sharding import Sharding, Split

DTYPES = [np.float32, np.float64, ml_dtypes.bfloat16, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
COMBINE = ["sum", "prod", "max", "min"]


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    found = rng.normal(size=shape) * 3
    if np.dtype(dtype).kind == "f" or dtype is ml_dtypes.bfloat16:
        flat = found.reshape(-1)
        flat[::7] = np.nan if flat.size > 40 else 0.1
        return found.astype(dtype)
    return rng.integers(-9 if np.dtype(dtype).kind == "i" else 0, 9, shape).astype(dtype)


def part(mesh: Mesh, axes: tuple[str, ...], size: int, rank: int) -> int:
    """How much of ``size`` a device has when the dimension is split over ``axes``."""
    count = int(np.prod([mesh.layout.size(a) for a in axes]))
    sharding = Sharding(mesh.layout, (Split(axes, -(-size // count)),))
    ((start, stop),) = shard_ranges(sharding, (size,), rank)
    return stop - start


def cases(mesh: Mesh):
    """(operator, attributes, operand's shape by rank, result's shape by rank)."""
    groups = [mesh.axes, (mesh.axes[-1],), tuple(reversed(mesh.axes))]
    for axes, size in itertools.product(dict.fromkeys(groups), (7, 3, 0)):
        names = ", ".join(f'"{a}"' for a in axes)
        sizes = ", ".join(str(mesh.layout.size(a)) for a in axes)
        about = f"axes = [{names}], sizes = [{sizes}]"

        def cut(shape: tuple[int, ...], *dims: int, axes: tuple[str, ...] = axes):
            return lambda r: tuple(part(mesh, axes, n, r) if d in dims else n for d, n in enumerate(shape))

        whole = (2, size, 3)
        yield "all_reduce", f'{{{about}, combine = "%s"}}', cut(whole), cut(whole)
        yield "reduce_scatter", f'{{{about}, combine = "%s", dim = 1}}', cut(whole), cut(whole, 1)
        yield "all_gather", f"{{{about}, dim = 1}}", cut(whole, 1), cut(whole)
        count = int(np.prod([mesh.layout.size(a) for a in axes]))
        turned = ", ".join(f"[{i}, {(i + 1) % count}]" for i in range(count))
        yield "collective_permute", f"{{{about}, pairs = [{turned}]}}", cut(whole), cut(whole)
        yield "collective_permute", f"{{{about}, pairs = [[0, {count - 1}]]}}", cut(whole), cut(whole)
        square = (size, 2, 5)
        yield "all_to_all", f"{{{about}, dim = 0, split_dim = 2}}", cut(square, 0), cut(square, 2)
        yield "all_to_all", f"{{{about}, dim = 2, split_dim = 0}}", cut(square, 2), cut(square, 0)


def check(mesh: Mesh, here: dist.World) -> int:
    group = LocalGroup(list(mesh.axes), list(mesh.shape), 20000)
    threads = ThreadPoolExecutor(mesh.size)
    local = [group.communicator(r) for r in range(mesh.size)]
    mine = here.communicator(mesh.axes, mesh.shape, mesh.devices)
    done = 0
    for number, (op, attributes, operand, result) in enumerate(cases(mesh)):
        combines = COMBINE if "%s" in attributes else [""]
        for (index, dtype), combine in itertools.product(enumerate(DTYPES), combines):
            if combine and combine != COMBINE[(number + index) % 4]:
                continue
            text = attributes % combine if combine else attributes
            rng = np.random.default_rng([number, index])
            inputs = [values(rng, operand(r), dtype) for r in range(mesh.size)]

            def run(r: int, communicator: Any, text: str = text, inputs: Any = inputs, op: str = op, result: Any = result):
                out = Array.from_numpy(np.zeros(result(r), inputs[r].dtype))
                communicator.reset_traffic()
                communicator.run(op, text, Array.from_numpy(inputs[r]), out)
                return to_numpy(out), communicator.traffic()

            expected, traffic = list(threads.map(run, range(mesh.size), local))[here.rank]
            found, received = run(here.rank, mine)
            assert found.tobytes() == expected.tobytes(), (op, text, inputs[0].dtype, found, expected)
            assert received == traffic, (op, text, received, traffic)
            done += 1
    return done


def main() -> None:
    here = dist.init(timeout=20)
    assert here.size > 1
    meshes = [Mesh(["x"], here.size)] if here.size < 4 else [Mesh(["dp", "tp"], here.size), Mesh(["x"], here.size)]
    done = sum(check(mesh, here) for mesh in meshes)
    # More than goes in one piece over MPI (64 MiB), from one process to the others.
    mine, size = here.communicator(["x"], [here.size], range(here.size)), (1 << 26) + 5
    large = np.arange(size if here.rank == 0 else 0, dtype=np.uint32).astype(np.uint8)
    out = Array.from_numpy(np.zeros(size, np.uint8))
    mine.run("all_gather", f'{{axes = ["x"], sizes = [{here.size}], dim = 0}}', Array.from_numpy(large), out)
    assert (to_numpy(out) == np.arange(size, dtype=np.uint32).astype(np.uint8)).all()
    assert here.all_gather(b"a" * here.rank) == [b"a" * r for r in range(here.size)]
    here.barrier()
    print(f"rank {here.rank} of {here.size} by {here.transport}: {done} collectives")


if __name__ == "__main__":
    sys.exit(main())
