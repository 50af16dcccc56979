"""Versions of the ``.tsr`` format, and how a file of an older version is read as the present one."""

from __future__ import annotations

from tessera.errors import FormatError, VersionError

FORMAT_VERSION = 1
"""The version that this build writes, and the newest that it reads."""

HISTORY: dict[int, str] = {
    1: "Graph text, decomposed text, one plan and kernel image per target and level, XXH64 hashes.",
}
"""What each version brought. A new version adds a line here and a step in ``upgrade``."""


def check_version(text: str | None, where: str) -> int:
    """The format version of a file from its ``tessera.format`` entry.

    Raises FormatError when there is none or it is no number, VersionError when it is newer than this build reads.
    """
    if text is None:
        raise FormatError(f"{where}: this safetensors file has no entry 'tessera.format', so it is no Tessera artefact")
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < 1:
        raise FormatError(f"{where}: 'tessera.format' is {text[:40]!r}, expected a version number")
    version = int(text)
    if version > FORMAT_VERSION:
        raise VersionError(
            f"{where}: the file has format version {version}, this build of Tessera reads versions up to "
            f"{FORMAT_VERSION}; install a newer Tessera"
        )
    return version


def upgrade(metadata: dict[str, str], version: int) -> dict[str, str]:
    """The metadata of a file of ``version`` in the form of the present version."""
    if version not in HISTORY:
        raise FormatError(f"format version {version} was never written by Tessera")
    return metadata
