"""``tessera run FILE --input x=x.npy``: run an artefact on NumPy files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from tessera.errors import ArgumentError, FileAccessError, FormatError, NameMissingError


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """``NAME=FILE`` arguments as a dict."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ArgumentError(f"{option} {text!r}: expected NAME=FILE.npy")
        if name in found:
            raise ArgumentError(f"{option} {name!r} is given twice")
        found[name] = path
    return found


def _read(name: str, path: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise FileAccessError(f"input {name!r}: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise FormatError(f"input {name!r}: {path} is not a NumPy file of numbers: {error}") from None


def _in_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """bf16 and 8-bit floats, which .npy files hold as raw bytes, in their own dtype."""
    from tessera.ir.dtype import DTYPES

    wanted = DTYPES[dtype].numpy
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        return array.view(wanted)
    return array


def _write(name: str, path: str, array: np.ndarray) -> None:
    """Save atomically, so that a failure leaves an older file as it was."""
    folder = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, array)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise FileAccessError(f"output {name!r}: cannot write {path}: {error.strerror or error}") from error


def run(
    path: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    target: str | None = None,
    native_code: bool = True,
    save_state: str | None = None,
) -> str:
    """Run the file once; text that lists or shows the outputs."""
    from tessera._core import Program, default_runtime
    from tessera.interop.array import as_array, to_numpy

    files, wanted = _pairs("--input", inputs), _pairs("--output", outputs)
    program = Program.load_file(path, allow_native_code=native_code, target=target)
    declared = program.inputs()
    names, results = [name for name, _, _ in declared], [name for name, _, _ in program.outputs()]
    for kind, given, known in (("input", files, names), ("output", wanted, results)):
        for name in given:
            if name not in known:
                raise NameMissingError(f"there is no {kind} {name!r}; the {kind}s are {', '.join(known) or 'none'}")
    for name, dtype, shape in declared:
        if name not in files:
            raise NameMissingError(
                f"input {name!r} ({dtype}[{', '.join(map(str, shape))}]) is missing: --input {name}=FILE.npy"
            )
    arrays = [as_array(_in_dtype(_read(name, files[name]), dtype)) for name, dtype, _ in declared]
    found = program.run(default_runtime(), arrays, None)
    if save_state is not None:
        program.save_state(save_state)
    lines = [f"ran on {program.target} {program.level}".rstrip()]
    for name, array in zip(results, found, strict=True):
        lines.append(f"{name}: {array.dtype}{list(array.shape)}")
        if name in wanted:
            _write(name, wanted[name], to_numpy(array))
            lines[-1] += f" -> {wanted[name]}"
        else:
            lines.append(np.array2string(to_numpy(array), threshold=64, edgeitems=3))
    return "\n".join(lines)
