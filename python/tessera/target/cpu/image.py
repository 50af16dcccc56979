"""Relocatable ELF64 objects → flat position-independent images.

Only what LLVM emits for freestanding x86-64 code in the small PIC model is accepted: PC-relative relocations
between the sections of one object. Anything that would need a dynamic linker is an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tessera.errors import CompileError

_SHF_ALLOC, _SHF_WRITE = 0x2, 0x1
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 1, 2, 4, 8
_R_PC64, _R_PC32, _R_PLT32 = 24, 2, 4
_RELATIVE = {_R_PC32: 4, _R_PLT32: 4, _R_PC64: 8}
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class FlatImage:
    """Code and constants with all relocations applied; offsets of the global functions."""

    code: bytes
    entries: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


def _cstring(data: bytes, at: int) -> str:
    return data[at:data.index(b"\0", at)].decode()


def _sections(data: bytes) -> list[_Section]:
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        raise CompileError("the object is not a little-endian ELF64 file")
    kind, machine = struct.unpack_from("<HH", data, 16)
    if kind != 1 or machine != 62:
        raise CompileError(f"the object is not relocatable x86-64 code (type {kind}, machine {machine})")
    table, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    raw = []
    for i in range(count):
        at = table + i * size
        if at + 64 > len(data):
            raise CompileError("the object is truncated: its section table lies outside the file")
        raw.append(struct.unpack_from("<IIQQQQIIQQ", data, at))
    base = raw[names][4]
    return [_Section(_cstring(data, base + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], max(1, r[8])) for r in raw]


def flatten(data: bytes) -> FlatImage:
    """Lay out the sections of an object and resolve its relocations.

    Raises CompileError for an undefined symbol, writable data, or a relocation that is not position independent.
    """
    sections = _sections(data)
    image = bytearray()
    base: dict[int, int] = {}
    kept = [i for i, s in enumerate(sections) if s.flags & _SHF_ALLOC and s.size and not s.name.startswith(".eh_frame")]
    kept.sort(key=lambda i: not sections[i].name.startswith(".text"))
    for i in kept:
        s = sections[i]
        if s.kind == _SHT_NOBITS or (s.flags & _SHF_WRITE and not s.name.startswith(".data.rel.ro")):
            raise CompileError(f"the object has writable data in section {s.name}; kernels must have none")
        align = max(s.align, _ALIGN if s.name.startswith(".text") else 1)
        image += b"\0" * (-len(image) % align)
        base[i] = len(image)
        image += data[s.offset:s.offset + s.size]
    symbols = _symbols(data, sections)
    for s in sections:
        if s.kind == _SHT_RELA and s.info in base:
            _relocate(image, data, s, sections[s.info], base, symbols)
    entries = {n: base[i] + v for n, i, v, is_entry in symbols if is_entry and i in base}
    image += b"\0" * (-len(image) % _ALIGN)
    return FlatImage(bytes(image), entries)


def _symbols(data: bytes, sections: list[_Section]) -> list[tuple[str, int, int, bool]]:
    """(name, section, value, whether it is a global function) of each symbol."""
    table = next((s for s in sections if s.kind == _SHT_SYMTAB), None)
    if table is None:
        raise CompileError("the object has no symbol table")
    strings = sections[table.link].offset
    out = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, info, _, index, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        out.append((_cstring(data, strings + name), index, value, info >> 4 == 1 and info & 15 == 2))
    return out


def _relocate(image: bytearray, data: bytes, table: _Section, target: _Section, base: dict[int, int],
              symbols: list[tuple[str, int, int, bool]]) -> None:
    for at in range(table.offset, table.offset + table.size, 24):
        place, info, addend = struct.unpack_from("<QQq", data, at)
        name, section, value, _ = symbols[info >> 32]
        kind = info & 0xFFFFFFFF
        if section == 0:
            raise CompileError(f"the kernel needs the symbol {name!r}, which does not exist at run time")
        if kind not in _RELATIVE:
            raise CompileError(f"relocation of type {kind} in {target.name} is not position independent")
        if section not in base:
            raise CompileError(f"relocation against symbol {name!r} in a section that is not loaded")
        position = base[table.info] + place
        delta = base[section] + value + addend - position
        width = _RELATIVE[kind]
        image[position:position + width] = delta.to_bytes(width, "little", signed=True)
