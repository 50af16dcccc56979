"""Read a ``.tsr`` file: every count is checked before it is used, nothing is executed."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.artifact import layout
from tessera.artifact.history import check_version, upgrade
from tessera.errors import FileAccessError, FormatError, NameMissingError
from tessera.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: element type, shape and the range [start, stop) of bytes in the file."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


class Artifact:
    """An open ``.tsr`` file; tensors are read-only views on its memory map."""

    def __init__(self, where: str, data: memoryview, metadata: dict[str, str], entries: dict[str, Entry]) -> None:
        self.where = where
        self.data = data
        self.metadata = metadata
        self.entries = entries

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as a read-only NumPy view; NameMissingError when the file has none of that name."""
        if name not in self.entries:
            raise NameMissingError(f"{self.where}: there is no tensor {name!r}")
        entry = self.entries[name]
        flat = np.frombuffer(self.data[entry.start : entry.stop], dtype=entry.dtype.numpy)
        return flat.reshape(entry.shape)

    def weights(self) -> list[str]:
        """Names of parameters and state, in file order."""
        return [name for name in self.entries if layout.is_weight(name)]

    def user_metadata(self) -> dict[str, str]:
        """The user's own entries, without their prefix."""
        return {k[len(layout.USER) :]: v for k, v in self.metadata.items() if k.startswith(layout.USER)}

    def mesh(self) -> dict[str, Any] | None:
        """The mesh that the plans are for, how tensors lie on it and what is exchanged; None for one device.

        FormatError when the entry is malformed.
        """
        if layout.MESH not in self.metadata:
            return None
        found = _json(self.metadata[layout.MESH], f"{self.where}: {layout.MESH}")
        fields = {"kind", "axes", "bytes", "tensor", "link", "cause", "line", "fix"}
        try:
            [(str(name), int(size)) for name, size in found["axes"]]
            whole = isinstance(found["kind"], str) and all(fields <= set(c) for c in found["collectives"])
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise FormatError(f"{self.where}: the entry {layout.MESH} is malformed")
        return found

    def plans(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The plans by (target, level)."""
        out: dict[tuple[str, str], dict[str, Any]] = {}
        for name, text in self.metadata.items():
            if name.startswith(layout.PLAN):
                target, _, level = name[len(layout.PLAN) :].partition(".")
                out[target, level] = _json(text, f"{self.where}: {name}")
        return out

    def hashes(self) -> dict[str, str]:
        """The hash of each tensor and entry that the file states; FormatError when it states none."""
        if layout.HASHES not in self.metadata:
            raise FormatError(f"{self.where}: the entry {layout.HASHES!r} is missing")
        hashes = _json(self.metadata[layout.HASHES], f"{self.where}: {layout.HASHES}")
        if not isinstance(hashes, dict):
            raise FormatError(f"{self.where}: {layout.HASHES!r} is not an object")
        return hashes

    def verify(self) -> None:
        """Compare all hashes; FormatError names the first entry that differs or has none."""
        from tessera.artifact.writer import digest

        hashes = self.hashes()
        hashed = [name for name in self.metadata if name.startswith("tessera.") and name != layout.HASHES]
        for name in (*hashed, *(name for name in self.entries if not name.startswith(layout.PAD))):
            if name not in hashes:
                raise FormatError(f"{self.where}: {name!r} has no hash")
        for name, expected in hashes.items():
            if name in self.entries:
                entry = self.entries[name]
                found = digest(self.data[entry.start : entry.stop])
            elif name in self.metadata:
                found = digest(self.metadata[name].encode())
            else:
                raise FormatError(f"{self.where}: {name!r} has a hash but is missing from the file")
            if found != expected:
                raise FormatError(
                    f"{self.where}: the content of {name!r} does not match its hash; the file is corrupted"
                )


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: not valid JSON ({error})") from None


def _header(where: str, data: memoryview) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset of the data section."""
    if data.nbytes < 8:
        raise FormatError(f"{where}: the file has {data.nbytes} bytes, too few for a safetensors header")
    length = int.from_bytes(data[:8], "little")
    if length > layout.MAX_HEADER:
        raise FormatError(f"{where}: the header claims {length} bytes; at most {layout.MAX_HEADER} are accepted")
    if 8 + length > data.nbytes:
        raise FormatError(
            f"{where}: the file is truncated: the header needs {8 + length} bytes, there are {data.nbytes}"
        )
    try:
        text = bytes(data[8 : 8 + length]).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{where}: the header is not UTF-8") from None
    header = _json(text, f"{where}: header")
    if not isinstance(header, dict):
        raise FormatError(f"{where}: the header is not a JSON object")
    return header, 8 + length


def _entry(where: str, name: str, fields: Any, base: int, size: int) -> Entry:
    """One tensor's entry, checked against the size of the file."""
    try:
        dtype = layout.DTYPE_OF[fields["dtype"]]
        shape = tuple(fields["shape"])
        start, stop = fields["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{where}: tensor {name!r}: the header entry is malformed") from None
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, start, stop)):
        raise FormatError(f"{where}: tensor {name!r}: sizes and offsets must be non-negative integers")
    count = 1
    for n in shape:
        count *= n
    if stop - start != count * dtype.itemsize:
        raise FormatError(
            f"{where}: tensor {name!r}: {dtype}{list(shape)} needs {count * dtype.itemsize} bytes, "
            f"its offsets give {stop - start}"
        )
    if base + stop > size:
        raise FormatError(f"{where}: the file is truncated: tensor {name!r} ends at {base + stop}, the file at {size}")
    return Entry(dtype, shape, base + start, base + stop)


def parse(where: str, data: memoryview) -> Artifact:
    """An artefact from the bytes of a file. Raises FormatError or VersionError; ``where`` names it in messages."""
    header, base = _header(where, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{where}: '__metadata__' must map names to text")
    if len(header) > layout.MAX_TENSORS:
        raise FormatError(f"{where}: {len(header)} tensors; at most {layout.MAX_TENSORS} are accepted")
    version = check_version(metadata.get(layout.FORMAT), where)
    entries = {name: _entry(where, name, fields, base, data.nbytes) for name, fields in header.items()}
    at = base
    for name, entry in sorted(entries.items(), key=lambda e: (e[1].start, e[1].stop)):
        if entry.start != at:
            raise FormatError(f"{where}: tensor {name!r} starts at {entry.start}, expected {at}: gap or overlap")
        at = entry.stop
    if at != data.nbytes:
        raise FormatError(f"{where}: {data.nbytes - at} bytes after the last tensor belong to nothing")
    return Artifact(where, data, upgrade(metadata, version), entries)


def load(path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
    """Map the file and check it. Raises FileAccessError, FormatError, VersionError."""
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    except OSError as error:
        raise FileAccessError(f"cannot read {where}: {error.strerror or error}") from error
    artifact = parse(where, data)
    if verify:
        from tessera._core import verify_file

        verify_file(where)  # there, a large file does not fill the memory
    return artifact
