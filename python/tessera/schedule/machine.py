"""What scheduling needs to know of the kind of machine."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Machine:
    """How reductions are spread over a machine.

    name             of the targets' family: ``cpu`` or ``gpu``
    results          results of a reduction from which it has enough parallelism as it is
    columns          results that one worker forms together where they are contiguous in memory
    row_length, column_length   elements per result from which a reduction with few results is done in two steps,
                     along and across what is contiguous in memory
    chunks           partial results of a result, or of all results together where ``spread``
    spills           whether an expensive value that a later loop needs is better kept in memory than computed again
    narrows          whether products read operands that are rounded to a narrower float on the way
    work             bytes that memory moves in the time of one unit of work per element; 0: work is not weighed against
                     bytes
    together         whether small kernels that need nothing of each other are launched together
    parts_rows       whether products can store parts of their rows in different places
    ordered          sums keep the order of their elements whatever the other sizes are: no reduction is cut, and no
                     product becomes a reduction
    overlaps         whether exchanges between devices run beside kernels
    partials         partial sums of each column that row kernels leave which form sums over rows, too; 0: none does
    """

    name: str
    results: int
    columns: int
    row_length: int
    column_length: int
    chunks: int
    spread: bool = False
    spills: bool = True
    narrows: bool = True
    work: float = 0.0
    together: bool = False
    parts_rows: bool = False
    ordered: bool = False
    overlaps: bool = False
    partials: int = 0


CPU = Machine("cpu", results=64, columns=1, row_length=32768, column_length=32768, chunks=64)
ORDERED_CPU = replace(CPU, ordered=True)
GPU = Machine(
    "gpu", results=264, columns=64, row_length=8192, column_length=512, chunks=1024, spread=True, spills=False,
    narrows=False, work=0.1, together=True, parts_rows=True, overlaps=True, partials=528,
)
"""264 blocks are two for each multiprocessor of the largest chips; 1024 keep all of them busy, as 528 do with rows."""
