"""Write a ``.tsr`` file: one safetensors file, aligned, hashed, and put in place atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tessera.artifact import layout
from tessera.errors import ArgumentError, FileAccessError, FormatError
from tessera.ir.dtype import as_dtype

_PIECE = 1 << 24  # bytes handed to the file system at once


@dataclass(frozen=True, slots=True)
class Section:
    """One tensor of the file: name, element type, shape and its bytes (a view, never a copy of large data)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def section(name: str, data: np.ndarray | bytes | bytearray | memoryview) -> Section:
    """A section from an array (row-major; others are copied) or from raw bytes (stored as U8)."""
    if isinstance(data, np.ndarray):
        array = np.ascontiguousarray(data).reshape(data.shape)
        raw = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
        return Section(name, layout.SAFETENSORS_NAMES[as_dtype(array.dtype).name], tuple(array.shape), raw)
    view = memoryview(data)
    return Section(name, "U8", (view.nbytes,), view.cast("B"))


def digest(data: bytes | memoryview | np.ndarray) -> str:
    """XXH64 of the bytes, as 16 hexadecimal digits."""
    from tessera import _core

    return f"{_core.hash64(data):016x}"


def _with_padding(sections: list[Section]) -> list[Section]:
    """The sections, each followed by padding so that the next one is aligned."""
    out: list[Section] = []
    for at, one in enumerate(sections):
        out.append(one)
        gap = -one.data.nbytes % layout.ALIGNMENT
        if gap and at + 1 < len(sections):
            out.append(Section(f"{layout.PAD}{at}", "U8", (gap,), memoryview(bytes(gap))))
    return out


def _header(metadata: Mapping[str, str], sections: list[Section], hashes: Mapping[str, str]) -> bytes:
    """The length and the JSON header, padded with spaces to the alignment of the data section."""
    entries: dict[str, object] = {"__metadata__": {**metadata, layout.HASHES: json.dumps(dict(hashes))}}
    offset = 0
    for one in sections:
        entries[one.name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [offset, offset + one.data.nbytes],
        }
        offset += one.data.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % layout.ALIGNMENT)
    if len(text) > layout.MAX_HEADER:
        raise FormatError(
            f"the header would have {len(text)} bytes; safetensors readers accept {layout.MAX_HEADER}. "
            "Use fewer targets or levels, or split the graph"
        )
    return len(text).to_bytes(8, "little") + text


def pieces(metadata: Mapping[str, str], sections: list[Section]) -> Iterator[bytes | memoryview]:
    """The file's bytes in order, as views on the sections' own memory.

    ``metadata`` maps names to text; a section's hash is stored for all names but the padding's.
    """
    names = [one.name for one in sections]
    if len(set(names)) != len(names) or "__metadata__" in names:
        twice = next((n for n in names if names.count(n) > 1), "__metadata__")
        raise ArgumentError(f"two tensors of one artefact are called {twice!r}; give each parameter its own name")
    for one in sections:
        if one.name.startswith("tessera.") and layout.is_weight(one.name) and one.name != "tessera.rng":
            raise ArgumentError(f"the parameter name {one.name!r} is reserved: names must not begin with 'tessera.'")
    hashes = {name: digest(text.encode()) for name, text in metadata.items() if name.startswith("tessera.")}
    hashes.update({one.name: digest(one.data) for one in sections})
    padded = _with_padding(sections)
    yield _header(metadata, padded, hashes)
    for one in padded:
        yield one.data


def to_bytes(metadata: Mapping[str, str], sections: list[Section]) -> bytes:
    """The whole file in memory; for small artefacts and for programs that are run at once."""
    return b"".join(pieces(metadata, sections))


def save(path: str | os.PathLike[str], metadata: Mapping[str, str], sections: list[Section]) -> None:
    """Write the file and put it in place in one step: a reader sees the old file or the whole new one.

    The data go to a temporary file of the same folder, reach the disk, and are renamed. Raises FileAccessError
    (the old file, if any, is unchanged and the temporary one removed). A symbolic link stays: the file that it
    points to is replaced.
    """
    put_in_place(path, pieces(metadata, sections))


def put_in_place(path: str | os.PathLike[str], content: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears whole or not at all, and is on the disk afterwards. Raises as ``save`` does."""
    target = os.path.realpath(os.fspath(path))
    if os.path.islink(target):
        raise FileAccessError(f"cannot write {target}: its symbolic links form a circle")
    folder = os.path.dirname(target)
    parts = list(content)
    temporary = os.path.join(folder, f".{os.path.basename(target)}.{os.urandom(6).hex()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise FileAccessError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                view = memoryview(part)
                for at in range(0, view.nbytes, _PIECE):
                    file.write(view[at : at + _PIECE])
            file.flush()
            with suppress(FileNotFoundError):  # a new file has the permissions that new files get
                os.fchmod(file.fileno(), os.stat(target).st_mode & 0o7777)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise FileAccessError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make what was created, renamed or removed in a folder durable, where the file system can sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
