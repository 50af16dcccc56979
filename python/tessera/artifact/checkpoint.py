"""Checkpoints on disk: a folder per step with files that hold pieces of tensors, and the manifest that lists them.

The manifest is put in place last, so a folder without one is no checkpoint: its writer has ended early.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.artifact import reader, writer
from tessera.dist.placement import slices
from tessera.errors import FileAccessError, FormatError, NameMissingError, VersionError
from tessera.ir.dtype import DTYPES, DType

VERSION = 1
"""The version of the manifest that this build writes, and the newest that it reads."""
KIND = "tessera checkpoint"
MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-([0-9]+)")
_OWN = re.compile(r"\.?(shards-[0-9]+\.[0-9a-f]+\.safetensors|manifest\.json)(\..*)?")  # with temporary files

Ranges = tuple[tuple[int, int], ...]
"""[start, stop) in each dimension of a tensor."""


def volume(ranges: Ranges) -> int:
    """How many elements the ranges hold."""
    count = 1
    for start, stop in ranges:
        count *= max(stop - start, 0)
    return count


def whole(shape: Sequence[int]) -> Ranges:
    """The ranges of the whole tensor."""
    return tuple((0, n) for n in shape)


def common(a: Ranges, b: Ranges) -> Ranges:
    """What two ranges of one tensor have in common; of no volume when they have nothing in common."""
    return tuple((max(p, r), min(q, s)) for (p, q), (r, s) in zip(a, b, strict=True))


def _within(part: Ranges, base: Ranges) -> tuple[slice, ...]:
    """The index of ``part`` in an array that holds ``base``."""
    return slices(tuple((a - at, b - at) for (a, b), (at, _) in zip(part, base, strict=True)))


def piece_name(tensor: str, ranges: Ranges, shape: Sequence[int]) -> str:
    """The name of a piece in its file: that of the tensor, followed by the global ranges unless it is the whole."""
    if ranges == whole(shape):
        return tensor
    return f"{tensor}[{', '.join(f'{a}:{b}' for a, b in ranges)}]"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a checkpoint: element type, global shape, and its pieces: files with the ranges that lie in them."""

    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[tuple[str, Ranges], ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds. ``number`` counts the checkpoints of a folder in the order in which they were made."""

    step: int
    number: int
    tensors: Mapping[str, Stored]

    @property
    def files(self) -> set[str]:
        """The names of the files that hold pieces."""
        return {file for stored in self.tensors.values() for file, _ in stored.pieces}

    def text(self) -> str:
        """The content of ``manifest.json``."""
        tensors = {
            name: {
                "dtype": stored.dtype.name,
                "shape": list(stored.shape),
                "pieces": [
                    {"file": file, "offsets": [a for a, _ in ranges], "shape": [b - a for a, b in ranges]}
                    for file, ranges in stored.pieces
                ],
            }
            for name, stored in self.tensors.items()
        }
        head = {"kind": KIND, "version": VERSION, "step": self.step, "number": self.number}
        return json.dumps({**head, "tensors": tensors}, ensure_ascii=False, separators=(",", ":"))


def parse_manifest(where: str, text: str) -> Manifest:
    """A manifest from the content of ``manifest.json``. Raises FormatError, VersionError for a newer format."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON ({error}); remove this checkpoint, older ones are usable") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise FormatError(f"{where}: this is no manifest of a Tessera checkpoint; give the folder that save was given")
    version = found.get("version")
    if not isinstance(version, int) or version < 1:
        raise FormatError(f"{where}: 'version' is {version!r}, expected a version number")
    if version > VERSION:
        raise VersionError(
            f"{where}: the checkpoint has format version {version}, this build of Tessera reads versions up to "
            f"{VERSION}; install a newer Tessera"
        )
    try:
        step, number = _size(found["step"]), _size(found["number"])
        return Manifest(step, number, {str(name): _stored(fields) for name, fields in found["tensors"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{where}: the manifest is malformed ({type(error).__name__}: {error}); remove this checkpoint, older ones "
            "are usable"
        ) from None


def _stored(fields: Any) -> Stored:
    shape = tuple(_size(n) for n in fields["shape"])
    pieces: list[tuple[str, Ranges]] = []
    for piece in fields["pieces"]:
        file, offsets, sizes = piece["file"], piece["offsets"], piece["shape"]
        if not isinstance(file, str) or os.path.basename(file) != file or not file:
            raise ValueError(f"{file!r} is not the name of a file")
        ranges = tuple((_size(a), _size(a) + _size(n)) for a, n in zip(offsets, sizes, strict=True))
        if len(ranges) != len(shape) or any(b > n for (_, b), n in zip(ranges, shape, strict=True)):
            raise ValueError(f"the piece {list(ranges)} does not lie in a tensor of shape {list(shape)}")
        pieces.append((file, ranges))
    return Stored(DTYPES[fields["dtype"]], shape, tuple(pieces))


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 62


def _size(n: Any) -> int:
    if not _is_size(n):
        raise ValueError(f"{n!r} is not a size")
    return n


class Folder:
    """The checkpoints below one folder, and the leftovers of writers that ended early."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.fspath(path)))

    def of(self, step: int) -> Path:
        """The folder of a step."""
        return self.path / f"step-{step}"

    def manifest(self, step: int) -> Manifest:
        """What the checkpoint of a step holds; NameMissingError when there is none that is complete."""
        where = self.of(step) / MANIFEST
        try:
            found = parse_manifest(str(where), where.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NameMissingError(
                f"{self.path}: there is no complete checkpoint of step {step}; complete are: "
                f"{', '.join(map(str, self._complete())) or 'none'}"
            ) from None
        except UnicodeDecodeError:
            raise FormatError(f"{where}: the manifest is not UTF-8; remove this checkpoint") from None
        except OSError as error:
            raise FileAccessError(f"cannot read {where}: {error.strerror or error}") from error
        if found.step != step:
            raise FormatError(f"{where}: it is the checkpoint of step {found.step}; call its folder step-{found.step}")
        return found

    def manifests(self) -> list[Manifest]:
        """The complete checkpoints in the order in which they were made."""
        found: list[Manifest] = []
        for step in self._complete():
            with suppress(NameMissingError):  # removed in between
                found.append(self.manifest(step))
        return sorted(found, key=lambda m: m.number)

    def latest(self) -> int:
        """The step of the checkpoint that was made last; NameMissingError when there is none that is complete."""
        found = self.manifests()
        if not found:
            unfinished = len(self._steps())
            more = f" ({unfinished} unfinished, left by a writer that ended early)" if unfinished else ""
            raise NameMissingError(
                f"{self.path}: there is no complete checkpoint{more}; save one, or give another folder"
            )
        return found[-1].step

    def _steps(self) -> list[int]:
        try:
            names = [entry.name for entry in os.scandir(self.path) if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FileAccessError(f"cannot read {self.path}: {error.strerror or error}") from error
        found = [_FOLDER.fullmatch(name) for name in names]
        return sorted({int(m.group(1)) for m in found if m and m.group(0) == f"step-{int(m.group(1))}"})

    def _complete(self) -> list[int]:
        return [step for step in self._steps() if (self.of(step) / MANIFEST).exists()]

    # --- writing ---

    def begin(self, step: int, keep: int | None) -> int:
        """Make the folder of a step, and remove what writers that ended early have left; gives the new number."""
        complete = self.manifests()
        try:
            self._keep(complete, keep)
            self.of(step).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileAccessError(f"cannot write {self.of(step)}: {error.strerror or error}") from error
        writer.sync_folder(str(self.path.parent))
        writer.sync_folder(str(self.path))
        return 1 + max((m.number for m in complete), default=0)

    def commit(self, manifest: Manifest, keep: int | None) -> None:
        """Put the manifest in place: from then on the checkpoint exists. Older ones are removed but for ``keep``."""
        writer.put_in_place(self.of(manifest.step) / MANIFEST, [manifest.text().encode()])
        with suppress(OSError):  # the next writer removes them as well
            self._keep(self.manifests(), keep)

    def _keep(self, complete: Sequence[Manifest], keep: int | None) -> None:
        """Remove all files but those of the last ``keep`` complete checkpoints."""
        wanted = {m.step: m.files for m in (complete if keep is None else complete[-keep:])}
        for step in self._steps():
            self._clean(step, wanted.get(step))

    def _clean(self, step: int, wanted: Collection[str] | None) -> None:
        """Remove the files of a step that are not wanted; the manifest first, and the folder, when none is."""
        folder = self.of(step)
        if wanted is None:
            with suppress(FileNotFoundError):
                os.unlink(folder / MANIFEST)
                writer.sync_folder(str(folder))
        for name in os.listdir(folder):
            if _OWN.fullmatch(name) and (wanted is None or name not in (MANIFEST, *wanted)):
                with suppress(FileNotFoundError):
                    os.unlink(folder / name)
        if wanted is None:
            with suppress(OSError):  # stays when it holds files of others
                os.rmdir(folder)


class Reading:
    """Reads regions of one checkpoint's tensors. ``bytes``: how many it has read.

    ``check`` finds out whether regions are there, ``read`` copies one; only the parts of files that they need are
    touched. Pieces that the regions hold in full are compared with their hashes, with ``verify`` the others as well.
    """

    def __init__(self, folder: Path, manifest: Manifest, verify: bool) -> None:
        self.folder, self.manifest = folder, manifest
        self.bytes = 0
        self._verify = verify
        self._files: dict[str, tuple[reader.Artifact, dict[str, str]]] = {}

    def check(self, name: str, regions: Sequence[Ranges]) -> None:
        """Raises FileAccessError or FormatError when a region (of some without overlap) cannot be read in full."""
        stored = self.manifest.tensors[name]
        needed: dict[tuple[str, Ranges], int] = {}
        for region in regions:
            parts = [(p, common(p[1], region)) for p in self._parts(stored, region)]
            twice = any(volume(common(x, y)) for i, (_, x) in enumerate(parts) for _, y in parts[:i])
            if twice or sum(volume(part) for _, part in parts) != volume(region):
                raise FormatError(
                    f"{self.folder / MANIFEST}: the pieces of {name!r} do not make up "
                    f"{piece_name(name, region, stored.shape)!r}; restore an older checkpoint"
                )
            for piece, part in parts:
                needed[piece] = needed.get(piece, 0) + volume(part)
        for (file, ranges), count in needed.items():
            data = self._piece(name, stored, file, ranges)
            if count == volume(ranges):
                self._compare_hash(piece_name(name, ranges, stored.shape), file)
            elif self._verify:
                self._compare_hash(piece_name(name, ranges, stored.shape), file)
                self.bytes += data.nbytes

    def read(self, name: str, region: Ranges, out: np.ndarray) -> None:
        """Copy a region into ``out``, which has its shape."""
        stored = self.manifest.tensors[name]
        for file, ranges in self._parts(stored, region):
            part = common(ranges, region)
            out[_within(part, region)] = self._piece(name, stored, file, ranges)[_within(part, ranges)]
            self.bytes += volume(part) * stored.dtype.itemsize

    @staticmethod
    def _parts(stored: Stored, region: Ranges) -> list[tuple[str, Ranges]]:
        return [(file, ranges) for file, ranges in stored.pieces if volume(common(ranges, region))]

    def _piece(self, name: str, stored: Stored, file: str, ranges: Ranges) -> np.ndarray:
        """A view on a piece in its file, which must be what the manifest says."""
        artifact, _ = self._open(file)
        key = piece_name(name, ranges, stored.shape)
        if key not in artifact.entries:
            raise FormatError(
                f"{artifact.where}: there is no tensor {key!r}, but the manifest lists it; restore an older checkpoint"
            )
        entry, shape = artifact.entries[key], tuple(b - a for a, b in ranges)
        if (entry.dtype, entry.shape) != (stored.dtype, shape):
            raise FormatError(
                f"{artifact.where}: tensor {key!r} is {entry.dtype}{list(entry.shape)}, the manifest says "
                f"{stored.dtype}{list(shape)}; restore an older checkpoint"
            )
        return artifact.tensor(key)

    def _open(self, file: str) -> tuple[reader.Artifact, dict[str, str]]:
        if file not in self._files:
            where = self.folder / file
            if not where.exists():
                raise FileAccessError(
                    f"cannot read {where}: the file is missing; copy it back, or restore an older checkpoint"
                )
            artifact = reader.load(where, verify=False)
            self._files[file] = artifact, artifact.hashes()
        return self._files[file]

    def _compare_hash(self, key: str, file: str) -> None:
        artifact, hashes = self._open(file)
        entry = artifact.entries[key]
        if hashes.get(key) != writer.digest(artifact.data[entry.start : entry.stop]):
            raise FormatError(
                f"{artifact.where}: the content of {key!r} does not match its hash: the file is corrupted; restore an "
                "older checkpoint"
            )
