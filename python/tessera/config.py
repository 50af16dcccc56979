"""Every environment variable that Tessera reads, typed and documented. Nothing else calls ``getenv``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: the variable's name, its default and what it does."""

    name: str
    default: str
    doc: str

    def text(self) -> str:
        """The value as text, or the default."""
        return os.environ.get(self.name, self.default)

    def flag(self) -> bool:
        """The value as a switch: ``1``, ``true``, ``yes`` or ``on`` is true."""
        return self.text().strip().lower() in {"1", "true", "yes", "on"}

    def integer(self) -> int:
        """The value as an integer."""
        return int(self.text())


THREADS = Variable("TESSERA_THREADS", "0", "Threads of the default runtime; 0: one per available core.")
CPU_LEVEL = Variable("TESSERA_CPU_LEVEL", "", "CPU code level to compile for; empty: that of the running CPU.")
VERIFY_PASSES = Variable("TESSERA_VERIFY_PASSES", "0", "Verify the graph after every pass.")
PRINT_PASSES = Variable("TESSERA_PRINT_PASSES", "0", "Print the graph after every pass to standard error.")
CACHE_DIR = Variable("TESSERA_CACHE_DIR", "", "Folder of the persistent compilation cache; empty: no cache on disk.")
COLLECTIVE_TIMEOUT = Variable(
    "TESSERA_COLLECTIVE_TIMEOUT", "300", "Seconds that a device of a mesh waits for the others before all fail."
)
MPI_LIBRARY = Variable(
    "TESSERA_MPI_LIBRARY", "", "File of the MPI library; empty: that of the mpich package, or what the loader finds."
)
RENDEZVOUS = Variable(
    "TESSERA_RENDEZVOUS", "", "host:port at which processes without MPI meet; empty: what the launcher's variables say."
)
CUDA_LIBRARY = Variable("TESSERA_CUDA_LIBRARY", "", "File of the CUDA driver library; empty: libcuda.so.1.")
HIP_LIBRARY = Variable("TESSERA_HIP_LIBRARY", "", "File of the HIP runtime library; empty: libamdhip64.so.")
CUBLASLT_LIBRARY = Variable(
    "TESSERA_CUBLASLT_LIBRARY", "",
    "File of cuBLASLt; empty: that of a package nvidia-cublas, or what the loader finds (libcublasLt.so.13, .12).",
)
CUDNN_LIBRARY = Variable(
    "TESSERA_CUDNN_LIBRARY", "",
    "File of cuDNN; empty: that of a package nvidia-cudnn, or what the loader finds (libcudnn.so.9).",
)
NCCL_LIBRARY = Variable(
    "TESSERA_NCCL_LIBRARY", "",
    "File of NCCL; empty: that of a package nvidia-nccl, or what the loader finds (libnccl.so.2).",
)
RCCL_LIBRARY = Variable("TESSERA_RCCL_LIBRARY", "", "File of RCCL; empty: what the loader finds (librccl.so.1).")

VARIABLES: tuple[Variable, ...] = (
    THREADS, CPU_LEVEL, VERIFY_PASSES, PRINT_PASSES, CACHE_DIR, COLLECTIVE_TIMEOUT, MPI_LIBRARY, RENDEZVOUS,
    CUDA_LIBRARY, HIP_LIBRARY, CUBLASLT_LIBRARY, CUDNN_LIBRARY, NCCL_LIBRARY, RCCL_LIBRARY,
)
"""All settings, for ``tessera doctor`` and the documentation."""

_VENDOR_FILES = {
    "cublaslt": (CUBLASLT_LIBRARY, "libcublasLt.so.*"), "cudnn": (CUDNN_LIBRARY, "libcudnn.so.*"),
    "nccl": (NCCL_LIBRARY, "libnccl.so.*"), "rccl": (RCCL_LIBRARY, "librccl.so.*"),
}


def vendor_library_files(library: str) -> list[str]:
    """Files that a vendor library (``cublaslt``, ``cudnn``, ``nccl``, ``rccl``) is looked for in before the loader's.

    The best is last: the one that its setting names; else those of packages ``nvidia-*`` of this Python, newer ones
    later.
    """
    variable, pattern = _VENDOR_FILES[library]
    if variable.text():
        return [variable.text()]
    found: list[Path] = []
    for folder in dict.fromkeys(sys.path):
        found += Path(folder or ".").glob(f"nvidia/*/lib/{pattern}")
    return [str(p) for p in sorted(found, key=lambda p: (len(p.suffix), p.suffix))]


_LAUNCHERS = (
    "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
    "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST",
    "SLURM_JOB_NODELIST",
)


_LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def local_rank() -> int | None:
    """Which of the processes on its host a launcher says that this one is; None where none says so."""
    found = next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), None)
    return None if found is None else int(found)


def launcher_variables() -> dict[str, str]:
    """The variables by which launchers tell a process its place (``dist.init`` reads them), those that are set."""
    return {name: os.environ[name] for name in _LAUNCHERS if name in os.environ}
