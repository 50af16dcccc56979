"""Compiled programs by content: in memory, and in the folder ``TESSERA_CACHE_DIR`` when it is set."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from tessera.config import CACHE_DIR
from tessera.target.triton.launch import Binary, Program
from tessera.target.triton.toolchain import VERSION

_DIGEST = 16


def key_of(program: Program, architecture: str) -> str:
    """What the machine code of a program depends on: its text, its arguments, the options, compiler, architecture."""
    text = repr((VERSION, replace(program, grid=(0, 0, 0)), architecture))
    return f"{architecture}-{hashlib.blake2b(text.encode(), digest_size=_DIGEST).hexdigest()}"


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


def _path(key: str) -> Path | None:
    folder = CACHE_DIR.text()
    return Path(folder) / f"gpu-{key}.bin" if folder else None


def _read(key: str) -> Binary | None:
    path = _path(key)
    if path is None:
        return None
    try:
        data = path.read_bytes()
        payload = data[_DIGEST:]
        if hashlib.blake2b(payload, digest_size=_DIGEST).digest() != data[:_DIGEST]:
            return None
        head, _, rest = payload.partition(b"\n")
        fields = json.loads(head)
        split = fields.pop("code")
        return Binary(code=rest[:split], text=rest[split:], **fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(key: str, value: Binary) -> None:
    path = _path(key)
    if path is None:
        return
    head = {**asdict(value), "code": len(value.code)}
    del head["text"]
    payload = json.dumps(head).encode() + b"\n" + value.code + value.text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.blake2b(payload, digest_size=_DIGEST).digest() + payload)
        os.replace(temporary, path)
    except OSError:
        return  # the cache is only an optimisation
