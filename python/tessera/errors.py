"""Every error that Tessera raises.

Each class carries a stable integer ``code``, the same one that the C ABI returns
(``tsr_status`` in ``tessera/c_api.h``), so that an error keeps its type across languages.
Classes also derive from the built-in exception that a Python user would expect.
"""

from __future__ import annotations


class TesseraError(Exception):
    """Base of all Tessera errors; ``code`` is the C ABI status."""

    code: int = 1


class ShapeError(TesseraError, ValueError):
    """A shape, rank or symbolic size does not fit."""

    code = 2


class DTypeError(TesseraError, TypeError):
    """An element type is not accepted or not supported."""

    code = 3


class ArgumentError(TesseraError, ValueError):
    """An argument other than a tensor's shape or dtype is wrong."""

    code = 4


class NameMissingError(TesseraError, LookupError):
    """An input, output, parameter or operator of that name does not exist, or one is missing."""

    code = 5


class IndexRangeError(TesseraError, IndexError):
    """An index or a label lies outside its range."""

    code = 6


class FormatError(TesseraError, ValueError):
    """A file or a text is truncated, corrupted or not of the expected format."""

    code = 7


class VersionError(FormatError):
    """A file needs a newer reader than this one."""

    code = 8


class DeviceError(TesseraError, RuntimeError):
    """A device, code level or library that is needed is not present, or failed."""

    code = 9


class UnsupportedError(TesseraError, NotImplementedError):
    """A combination that is understood but not supported."""

    code = 10


class GradientError(TesseraError, ValueError):
    """A gradient was asked for that does not exist; the message gives the reason."""

    code = 11


class GraphError(TesseraError, ValueError):
    """A graph is malformed: unknown value, type mismatch, cycle, bad text."""

    code = 12


class CompileError(TesseraError, RuntimeError):
    """Code generation failed."""

    code = 13


class OutOfMemoryError(TesseraError, MemoryError):
    """Memory could not be allocated."""

    code = 14


class FileAccessError(TesseraError, OSError):
    """A file could not be opened, read or written."""

    code = 15


class CancelledError(TesseraError, RuntimeError):
    """A run was stopped by its cancellation token; it has changed no state."""

    code = 16


class InternalError(TesseraError, RuntimeError):
    """A defect in Tessera itself."""

    code = 99


ERROR_BY_CODE: dict[int, type[TesseraError]] = {
    cls.code: cls
    for cls in (
        TesseraError, ShapeError, DTypeError, ArgumentError, NameMissingError, IndexRangeError,
        FormatError, VersionError, DeviceError, UnsupportedError, GradientError, GraphError,
        CompileError, OutOfMemoryError, FileAccessError, CancelledError, InternalError,
    )
}
"""The error class for each C ABI status code."""
