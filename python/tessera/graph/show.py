"""``graph.schedule``: kernels, buffers and peak memory of a graph, before anything runs."""

from __future__ import annotations

from typing import Any

from tessera.graph.compile import compile
from tessera.schedule.options import Schedule


def schedule(subject: Any, *examples: Any, schedule: Schedule | None = None, **named_examples: Any) -> str:
    """The schedule of a tensor, a graph, or a function with example arguments, as text; see ``graph.compile``."""
    return compile(subject, *examples, schedule=schedule, **named_examples).schedule()
