"""Compiled programs by content: in memory, and in the folder ``TESSERA_CACHE_DIR`` when it is set."""

from __future__ import annotations

from dataclasses import asdict, replace

from tessera.target import disk_cache
from tessera.target.triton.launch import Binary, Program
from tessera.target.triton.toolchain import VERSION


def key_of(program: Program, architecture: str) -> str:
    """What the machine code of a program depends on: its text, its arguments, the options, compiler, architecture."""
    text = repr((VERSION, replace(program, grid=(0, 0, 0)), architecture))
    return f"{architecture}-{disk_cache.digest_of(text)}"


class ProgramCache:
    """Machine code by key. Entries on disk are checked before they are used; failures of the disk are ignored."""

    def __init__(self) -> None:
        self._known: dict[str, Binary] = {}

    def find(self, key: str) -> Binary | None:
        """The program of that key, or None."""
        found = self._known.get(key)
        if found is None:
            found = _read(key)
            if found is not None:
                self._known[key] = found
        return found

    def add(self, key: str, value: Binary) -> None:
        """Keep a program."""
        self._known[key] = value
        _write(key, value)

    def clear(self) -> None:
        """Forget what is in memory."""
        self._known.clear()


def _read(key: str) -> Binary | None:
    entry = disk_cache.read(f"gpu-{key}")
    if entry is None:
        return None
    fields, code = entry
    try:
        split = fields.pop("code")
        return Binary(code=code[:split], text=code[split:], **fields)
    except (KeyError, TypeError):
        return None


def _write(key: str, value: Binary) -> None:
    fields = {**asdict(value), "code": len(value.code)}
    del fields["text"]
    disk_cache.write(f"gpu-{key}", fields, value.code + value.text)
