"""What runs did, kernel by kernel."""

from __future__ import annotations

import os

from tessera import _core


class Trace:
    """What runs did: an event for each run, kernel, check and copy, with time, device and line of the user's file.

    Give it to ``Compiled.run(…, trace=trace)``, any number of times; ``len(trace)`` is the number of events kept.
    A traced run on a GPU is waited for.
    """

    def __init__(self) -> None:
        self._native = _core.Trace()

    def __len__(self) -> int:
        """The number of events kept."""
        return len(self._native)

    def clear(self) -> None:
        """Forget the events kept so far."""
        self._native.clear()

    def to_json(self) -> str:
        """The events as JSON text in the form that ui.perfetto.dev and chrome://tracing read.

        ``traceEvents`` has one object for each: ``cat`` (run, kernel, operator, check, copy, collective, custom),
        ``name``, ``ts`` and ``dur`` in microseconds, and in ``args`` the ``location`` (file:line) and the ``device``.
        """
        return self._native.to_json()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json()`` to a file, atomically. Raises FileAccessError when it cannot be written."""
        self._native.save(path)

    def __repr__(self) -> str:
        return f"Trace({len(self)} events)"
