"""The kernels that a product or attention can have on a GPU: generated ones, calls of vendor libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.ir.dtype import f32, f64
from tessera.schedule.cost import typical
from tessera.target.triton import dot, loops, product_sums, products
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Generated, Program
from tessera.target.triton.library_attention import LibraryAttention, attention_text, library_attention
from tessera.target.triton.library_product import LibraryProduct, library_product
from tessera.tile.ir import AttentionKernel, DotKernel, Kernel, Load

_SLOWER = 1.6
"""Forms that the model puts at more than so many times the best are not measured."""
_MOST_FORMS = 6
_LEAST = 16
"""Rows and columns of the smallest block."""
_NARROW = 64
"""Rows up to which both forms of a generated kernel are measured."""
_LARGE_EDGE = 256
_MANY_TERMS, _FEWEST_RESULTS, _FEW_RESULTS = 8192, 512, 1 << 22
"""Terms from which, and results on each side from which and in all up to which, a library divides products better."""
_LONG_ROWS = 1024
"""Queries and keys from which a library is faster at causal attention."""
_ALGORITHMS = 4
"""Proposals of a library that are measured."""
_BLOCKS = (
    products.Sizes(64, 64, 32), products.Sizes(128, 128, 32, warps=8, stages=3), products.Sizes(128, 64, 64, stages=3),
    products.Sizes(64, 128, 64, stages=3), products.Sizes(64, 256, 32, warps=8, stages=3),
    products.Sizes(16, 64, 64, stages=6), products.Sizes(16, 32, 128, stages=5), products.Sizes(32, 64, 64, stages=4),
)


@dataclass(frozen=True, slots=True)
class LibraryCall:
    """A call of a library: which of its proposals for the sizes (0: its best), of which version of it."""

    name: str
    function: LibraryProduct | LibraryAttention
    algorithm: int = 0
    version: int = 0


@dataclass(frozen=True)
class Candidate:
    """One way to compute a kernel.

    name       what it is called in reports, artefacts and caches, different for each candidate of a kernel
    generate   the launches that stand for the whole kernel, for options
    library    the call of a library in place of them, where it can be loaded; None: they run
    """

    name: str
    generate: Callable[[Options], Generated]
    library: LibraryCall | None = None

    def rest(self, options: Options) -> tuple[Program, ...]:
        """What runs behind the call of the library."""
        if self.library is None or self.library.function.rest is None:
            return ()
        return (loops.generate(self.library.function.rest, options),)


@dataclass(frozen=True)
class Choice:
    """The candidate that was taken for a kernel, and what speaks for it.

    ``why``: ``model`` (an estimate), ``table`` (measurements that come with Tessera) or ``measured``. Where it was
    measured: the ``device``, ``microseconds`` by candidate, the ``versions`` of the libraries, and the ``key`` under
    which that is kept.
    """

    candidate: Candidate
    why: str = "model"
    device: str = ""
    microseconds: Mapping[str, float] = field(default_factory=dict)
    key: str = ""
    versions: Mapping[str, int] = field(default_factory=dict)

    def described(self, kernel: Kernel) -> dict[str, Any]:
        """As artefacts hold it."""
        found: dict[str, Any] = {"kernel": kernel.name, "choice": self.candidate.name, "why": self.why}
        if isinstance(kernel, DotKernel):
            found["product"] = _product_text(kernel)
        elif isinstance(kernel, AttentionKernel):
            found["attention"] = attention_text(kernel)
        if self.microseconds:
            found |= {
                "device": self.device, "microseconds": dict(self.microseconds), "versions": dict(self.versions),
                "key": self.key,
            }
        return found


def _product_text(kernel: DotKernel) -> str:
    """``16 x 8192 x 4096 bf16``: batch, rows, columns, terms."""
    dtypes = dict.fromkeys(kernel.buffers[o.buffer].dtype.name for b in (kernel.a, kernel.b) for o in b
                           if isinstance(o, Load))
    sizes = " x ".join(str(a.extent) for a in (*kernel.batch, kernel.m, kernel.n, kernel.k))
    return f"{sizes} {', '.join(dtypes)}"


Chooser = Callable[[Sequence[Kernel], Sequence[Options], Sequence[str]], list[Choice]]
"""Chooses for kernels with their options; the third argument are the libraries that may be called."""


def choose_by_model(kernels: Sequence[Kernel], options: Sequence[Options], libraries: Sequence[str]) -> list[Choice]:
    """What is chosen where nothing is measured: generated kernels, but for what the table says."""
    found: list[Choice] = []
    for kernel, option in zip(kernels, options, strict=True):
        call = library_call(kernel, option, libraries) if is_faster_in_library(kernel, option) else None
        if call is None:
            found.append(Choice(default(kernel)))
        else:
            found.append(Choice(Candidate(call.name, default(kernel).generate, call), "table"))
    return found


def is_faster_in_library(kernel: Kernel, options: Options) -> bool:
    """Whether a library was measured to be faster for products like this one, on H100.

    f64 has matrix instructions that generated kernels do not use (2048³: 303 instead of 2072 µs); in f32 without them
    the library is 15 % ahead. Products of 16 bits differ too much from size to size for a rule, but for those with few
    results and many terms, which are nothing but a product (768 × 3072 results of 16384 terms: 110 instead of 141 µs).
    Causal attention of as many heads of keys as of queries took 84 instead of 96 µs (192 × 1024 × 64) and 530 instead
    of 614 µs (64 × 4096 × 128) between other work; its gradient, in order, and grouped heads were slower.
    """
    if options.architecture != "sm_90a":
        return False
    if isinstance(kernel, AttentionKernel):
        return _is_long_and_causal(kernel)
    if not isinstance(kernel, DotKernel):
        return False
    m, n, k = (typical(a.extent) for a in (kernel.m, kernel.n, kernel.k))
    if kernel.acc == f64:
        return min(m, n, k) >= _LEAST and m * n * k >= _LARGE_EDGE**3 // 8
    kind = dot.element(kernel)
    if kind is not None and kind.bits == 16 and len(kernel.epilogue) <= 2:
        return k >= _MANY_TERMS and min(m, n) >= _FEWEST_RESULTS and m * n <= _FEW_RESULTS and not kernel.batch
    first = kernel.a[0]
    wide = isinstance(first, Load) and kernel.buffers[first.buffer].dtype == f32
    return wide and options.float32 == "ieee" and min(m, n, k) >= _LARGE_EDGE


def _is_long_and_causal(kernel: AttentionKernel) -> bool:
    """Whether this is the forward pass of causal attention over long rows, each head with keys of its own."""
    q, k = (b.shape for b in kernel.buffers[:2])
    return kernel.causal and not kernel.backward and q == k and isinstance(q[1], int) and q[1] >= _LONG_ROWS


def default(kernel: Kernel) -> Candidate:
    """The generated kernel that the model of the hardware chooses."""
    return Candidate("generated", lambda options: generate(kernel, options))


def candidates(
    kernel: Kernel, options: Options, libraries: Sequence[str] = (), versions: dict[str, int] | None = None
) -> list[Candidate]:
    """Every way to compute a kernel, the default first.

    ``versions``: of the libraries that are there to be measured.
    """
    found = [default(kernel)]
    if isinstance(kernel, AttentionKernel):
        called = library_call(kernel, options, libraries)
        return found if called is None else [*found, Candidate(called.name, default(kernel).generate, called)]
    if not isinstance(kernel, DotKernel):
        return found
    tiles = _tiles(kernel, options)
    found += tiles
    if not tiles or typical(kernel.m.extent) <= _NARROW:
        found += _blocks(kernel, options)
    call = library_call(kernel, options, libraries)
    if call is not None:
        version = (versions or {}).get(call.name, 0)
        for n in range(_ALGORITHMS if version else 1):
            name = call.name if n == 0 else f"{call.name}, proposal {n + 1}"
            chosen = replace(call, algorithm=n, version=version if n else 0)
            found.append(Candidate(name, default(kernel).generate, chosen))
    return found


def library_of(kernel: Kernel) -> str:
    """The library that has functions for kernels of a kind; empty where none has."""
    return "cublaslt" if isinstance(kernel, DotKernel) else "cudnn" if isinstance(kernel, AttentionKernel) else ""


def library_call(kernel: Kernel, options: Options, libraries: Sequence[str]) -> LibraryCall | None:
    """The best call of a library for a kernel; None when there is none."""
    name = library_of(kernel)
    if name not in libraries or not options.architecture.startswith("sm_"):
        return None
    found: LibraryProduct | LibraryAttention | None = None
    if isinstance(kernel, DotKernel):
        found = library_product(kernel, options.guarded)
    elif isinstance(kernel, AttentionKernel):
        found = library_attention(kernel, options)
    return None if found is None else LibraryCall(name, found)


def _tiles(kernel: DotKernel, options: Options) -> list[Candidate]:
    """Forms of the kernel for Hopper, those that the model finds fast; none where it does not suit."""
    if dot.generate(kernel, options) is None:
        return []
    known = {f: dot.cycles(kernel, f) for f in dot.forms(kernel)}
    least = min(known.values())
    order = sorted((f for f in known if known[f] <= _SLOWER * least), key=lambda f: known[f])
    return [
        Candidate(f.text(), lambda options, f=f: dot.generate(kernel, options, f) or generate(kernel, options))
        for f in order[1 : _MOST_FORMS + 1]
    ]


def _blocks(kernel: DotKernel, options: Options) -> list[Candidate]:
    """Blocks of the kernel in plain Triton."""
    if not products.uses_matrix_units(kernel) or product_sums.of(kernel):
        return []
    usual = products.chosen(kernel, options)
    fitting = {products.fitted(kernel, s) for s in _BLOCKS if _fills(kernel, s)} - {usual}
    return [
        Candidate(s.text(), lambda options, s=s: Generated((products.generate(kernel, options, s),)))
        for s in sorted(fitting, key=lambda s: (s.m, s.n, s.k, s.warps, s.stages))
    ]


def _fills(kernel: DotKernel, sizes: products.Sizes) -> bool:
    """Whether most of the blocks' rows and columns would be used."""
    m, n = (max(_LEAST, typical(a.extent)) for a in (kernel.m, kernel.n))
    return m * n >= 0.5 * math.ceil(m / sizes.m) * sizes.m * math.ceil(n / sizes.n) * sizes.n
