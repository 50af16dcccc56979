"""One process of several: the caller has initialised MPI, and hands in a communicator in which ranks are reversed."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
from tessera import dist
from tessera.dist import Mesh, ShardSpec

mpi = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
WORLD = ctypes.c_void_p(0x101)  # MPI_COMM_WORLD
provided, rank, communicator = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
assert mpi.MPI_Init_thread(None, None, 4096, ctypes.byref(provided)) == 0
assert mpi.MPI_Comm_rank(WORLD, ctypes.byref(rank)) == 0
assert mpi.MPI_Comm_split(WORLD, 0, -rank.value, ctypes.byref(communicator)) == 0

# As mpi4py's communicators are, or the number itself.
handle = communicator.value
here = dist.init(SimpleNamespace(handle=handle) if sys.argv[2] == "object" else handle, timeout=20)
assert here.rank == here.size - 1 - rank.value, (here.rank, rank.value)
mesh = Mesh(["x"], here.size)
w = dist.tensor((5, 3), layout=ShardSpec(("row",), ("x",)), mesh=mesh, init=np.arange(15, dtype=np.float32).reshape(5, 3))
from tessera import op  # noqa: E402

value = op.parameter_of(w).value
assert (value == np.arange(15).reshape(5, 3)).all()
here.close()
flag = ctypes.c_int()
mpi.MPI_Finalized(ctypes.byref(flag))
assert not flag.value, "it is the caller's to finalize"
assert mpi.MPI_Finalize() == 0
print(f"rank {here.rank} was {rank.value}")
