"""Files of compiled code by key, in the folder ``TESSERA_CACHE_DIR`` when it is set.

What is read is checked against its digest. Failures of the disk are ignored: the cache is only an optimisation.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tessera.config import CACHE_DIR

_DIGEST = 16


def digest_of(text: str) -> str:
    """A name for content."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST).hexdigest()


def read(name: str) -> tuple[dict[str, Any], bytes] | None:
    """The fields and the code of an entry; None when there is no whole one."""
    path = _path(name)
    if path is None:
        return None
    try:
        data = path.read_bytes()
        payload = data[_DIGEST:]
        if _sum(payload) != data[:_DIGEST]:
            return None
        head, _, code = payload.partition(b"\n")
        return json.loads(head), code
    except (OSError, ValueError):
        return None


def write(name: str, fields: dict[str, Any], code: bytes) -> None:
    """Keep an entry. Readers see all of it or nothing."""
    path = _path(name)
    if path is None:
        return
    payload = json.dumps(fields).encode() + b"\n" + code
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(_sum(payload) + payload)
        os.replace(temporary, path)
    except OSError:
        return


def _path(name: str) -> Path | None:
    folder = CACHE_DIR.text()
    return Path(folder) / f"{name}.bin" if folder else None


def _sum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST).digest()
