"""Where in the user's code an operation comes from."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar, Token
from dataclasses import dataclass

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__))
_is_user_file: dict[str, bool] = {}


@dataclass(frozen=True, slots=True)
class Location:
    """A file and a line (1-based) of the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_UNSET = Location("", 0)
_CURRENT: ContextVar[Location | None] = ContextVar("tessera_location", default=_UNSET)


class location:
    """Context in which new nodes get the location ``loc`` instead of that of the calling user code.

    Passes use it so that what they build names the line of the operation that it was built for.
    """

    __slots__ = ("_loc", "_token")

    def __init__(self, loc: Location | None) -> None:
        self._loc = loc

    def __enter__(self) -> None:
        self._token: Token[Location | None] = _CURRENT.set(self._loc)

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._token)


def user_location() -> Location | None:
    """The location that ``location`` sets, else the innermost frame of the user's program; None without one.

    Frames of this package are passed over, and those of the standard library's own modules, such as
    ``contextlib``, that stand between.
    """
    current = _CURRENT.get()
    if current is not _UNSET:
        return current
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        user = _is_user_file.get(file)
        if user is None:
            user = not file.startswith((_PACKAGE, "<frozen ")) and os.path.dirname(file) != _STANDARD_LIBRARY
            _is_user_file[file] = user
        if user:
            return Location(file, frame.f_lineno)
        frame = frame.f_back
    return None
