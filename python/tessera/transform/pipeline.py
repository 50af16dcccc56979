"""Runs passes over a graph: with verification and printing between them, and their times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tessera import config
from tessera.errors import GraphError, InternalError, NameMissingError
from tessera.ir.graph import Graph
from tessera.ir.printer import print_graph
from tessera.ir.verify import verify
from tessera.transform.algebra import simplify_algebra
from tessera.transform.cse import eliminate_common_subexpressions
from tessera.transform.dce import drop_dead_updates
from tessera.transform.decompose import Kept, decompose
from tessera.transform.flash_attention import claim, is_claimed
from tessera.transform.fold import fold_constants
from tessera.transform.simplify import simplify

Pass = Callable[[Graph], Graph]

PASSES: dict[str, Pass] = {
    "decompose": decompose,
    "simplify": simplify,
    "algebra": simplify_algebra,
    "fold": fold_constants,
    "cse": eliminate_common_subexpressions,
    "dce": drop_dead_updates,
}
"""All passes by name; ``simplify`` runs the last four until nothing changes."""


@dataclass(frozen=True, slots=True)
class PassTime:
    """One pass as it ran: its name, wall-clock seconds, and how many nodes the graph had before and after."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int


@dataclass(slots=True)
class Timings:
    """The passes that ran, in order."""

    passes: list[PassTime] = field(default_factory=list[PassTime])

    def __str__(self) -> str:
        lines = [f"{'pass':<16}{'ms':>9}{'nodes':>16}"]
        lines += [
            f"{p.name:<16}{p.seconds * 1e3:>9.2f}{f'{p.nodes_before} -> {p.nodes_after}':>16}" for p in self.passes
        ]
        return "\n".join(lines)


def run_passes(
    graph: Graph,
    passes: Sequence[str | Pass],
    *,
    timings: Timings | None = None,
    verify_each: bool | None = None,
    print_each: bool | None = None,
) -> Graph:
    """Run passes in order, each given by its name in ``PASSES`` or as a function from graph to graph.

    ``verify_each`` checks the graph before the first and after every pass (None: as TESSERA_VERIFY_PASSES
    says); a pass that breaks the graph is an InternalError that names it. ``print_each`` prints the graph
    after every pass to standard error (None: as TESSERA_PRINT_PASSES says). ``timings`` collects the times.
    """
    check = config.VERIFY_PASSES.flag() if verify_each is None else verify_each
    show = config.PRINT_PASSES.flag() if print_each is None else print_each
    if check:
        verify(graph)
    for each in passes:
        name, function = _named(each)
        before = len(graph.nodes()) if timings is not None else 0
        start = time.perf_counter()
        graph = function(graph)
        if timings is not None:
            timings.passes.append(PassTime(name, time.perf_counter() - start, before, len(graph.nodes())))
        if show:
            print(f"# after {name}\n{print_graph(graph)}", file=sys.stderr)
        if check:
            try:
                verify(graph)
            except GraphError as error:
                raise InternalError(f"the pass {name!r} left a malformed graph: {error}") from error
    return graph


def to_gpu_operators(graph: Graph, keep: frozenset[str] = frozenset(), timings: Timings | None = None) -> Graph:
    """What a GPU target compiles: primitives, and attention as a whole where there are kernels for it.

    ``keep``: composites that stay as well.
    """
    claimed = run_passes(graph, [claim], timings=timings)
    return to_primitives(claimed, lambda n: n.op in keep or is_claimed(n), timings)


def to_primitives(graph: Graph, keep: Kept = frozenset(), timings: Timings | None = None) -> Graph:
    """What a target compiles: composites decomposed (except those in ``keep``) and simplified."""

    def decompose_others(g: Graph) -> Graph:
        return decompose(g, keep)

    decompose_others.__name__ = "decompose"
    return run_passes(graph, [decompose_others, "simplify"], timings=timings)


def _named(each: str | Pass) -> tuple[str, Pass]:
    if not isinstance(each, str):
        return getattr(each, "__name__", "pass"), each
    if each not in PASSES:
        raise NameMissingError(f"there is no pass {each!r}; there are {', '.join(PASSES)}")
    return each, PASSES[each]
