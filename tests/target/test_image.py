"""The object reader, code levels, the cache of compiled kernels, and their error messages."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tessera.errors import ArgumentError, CompileError, DeviceError, UnsupportedError
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import f32
from tessera.target.cpu import compile as compiler
from tessera.target.cpu import levels
from tessera.target.cpu.image import flatten
from tessera.target.cpu.levels import LEVELS, check_runs_here, host_level, level_named, level_of_flags
from tessera.tile.ir import Axis, Buffer, Compute, Load, LoopKernel, Ref, Stage, Store

from tests.target.harness import LEVEL_NAMES, Native, filled

V2 = LEVELS["x86-64-v2"]


def simple(name: str = "k", function: str = "neg", n: int = 50) -> LoopKernel:
    i = Symbol("i")
    ops = (Load(0, (sym(i),)), Compute(function, (Ref(0, 0),), f32), Store(1, (sym(i),), Ref(0, 1)))
    return LoopKernel(
        name,
        (),
        (Buffer("x", f32, (n,), (1,), "in"), Buffer("y", f32, (n,), (1,), "out")),
        (Axis(i, n),),
        (Stage((), ops),),
    )


def test_undefined_symbol_is_named() -> None:
    text = (
        "declare double @cbrt(double)\ndefine double @f(double %x) nounwind {\n"
        "  %y = call double @cbrt(double %x)\n  ret double %y\n}\n"
    )
    with pytest.raises(CompileError, match="needs the symbol 'cbrt'"):
        flatten(compiler.assemble(text, V2, "f"))


def test_writable_data_is_refused() -> None:
    text = (
        "@state = internal global i32 3\ndefine i32 @f() nounwind {\n  %x = load volatile i32, ptr @state\n"
        "  store volatile i32 1, ptr @state\n  ret i32 %x\n}\n"
    )
    with pytest.raises(CompileError, match="writable data in section .data"):
        flatten(compiler.assemble(text, V2, "f"))


def test_text_that_is_not_llvm() -> None:
    with pytest.raises(CompileError, match="kernel broken: LLVM does not accept"):
        compiler.assemble("define void @f( {", V2, "broken")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not a little-endian ELF64"),
        (b"\x7fELF\x01\x01" + b"\0" * 60, "not a little-endian ELF64"),
        (b"\x7fELF\x02\x01" + b"\0" * 60, "not relocatable x86-64"),
    ],
)
def test_what_is_not_an_object(data: bytes, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        flatten(data)


def test_truncated_object() -> None:
    data = compiler.assemble("define i64 @f() nounwind {\n  ret i64 7\n}\n", V2, "f")
    with pytest.raises(CompileError, match="truncated"):
        flatten(data[:-100])


def test_absolute_relocation_is_refused() -> None:
    data = bytearray(
        compiler.assemble(
            (
                "define internal void @g() noinline nounwind {\n ret void\n}\ndefine void @f() nounwind {\n"
                "  call void @g()\n  call void @h()\n ret void\n}\ndefine void @h() nounwind {\n ret void\n}\n"
            ),
            V2,
            "f",
        )
    )
    table = next((s for s in compiler_sections(data) if s.kind == 4), None)
    if table is None:
        pytest.skip("LLVM resolved the calls itself")
    struct.pack_into("<I", data, table.offset + 8, 1)  # R_X86_64_64
    with pytest.raises(CompileError, match="not position independent"):
        flatten(bytes(data))


def compiler_sections(data: bytearray) -> list:
    from tessera.target.cpu import image

    return image._sections(bytes(data))


def test_jump_tables_are_relocated() -> None:
    cases = "\n".join(f"    i64 {i}, label %b{i}" for i in range(8))
    blocks = "\n".join(f"b{i}:\n  ret i64 {i * i + 100}" for i in range(8))
    text = (
        "define i64 @f(ptr %p, ptr %s, i64 %x, i64 %e, ptr %q) nounwind {\n"
        f"  switch i64 %x, label %d [\n{cases}\n  ]\n{blocks}\nd:\n  ret i64 5\n}}\n"
    )
    flat = flatten(compiler.assemble(text, V2, "f"))
    import ctypes

    from tessera.target.cpu.executable import _ENTRY, LoadedImage

    loaded = LoadedImage(flat.code)
    function = _ENTRY(loaded.address + flat.entries["f"])
    assert [function(ctypes.c_void_p(), ctypes.c_void_p(), i, 0, ctypes.c_void_p()) for i in range(9)] == [
        100,
        101,
        104,
        109,
        116,
        125,
        136,
        149,
        5,
    ]


def test_equal_kernels_share_code() -> None:
    one = compiler.compile_kernels([simple("a")], LEVEL_NAMES[0])
    three = compiler.compile_kernels([simple("a"), simple("b"), simple("c", n=51)], LEVEL_NAMES[0])
    assert [k.name for k in three.kernels] == ["a", "b", "c"]
    assert three.kernels[0].entry == three.kernels[1].entry != three.kernels[2].entry
    assert three.level == LEVEL_NAMES[0] and three.code.startswith(one.code)
    assert all(k.entry % 16 == 0 for k in three.kernels)


def test_every_entry_has_its_mark() -> None:
    kernels = [simple("a"), simple("b", "tanh"), replace(simple("c", "exp"), sizes=(Symbol("s"),))]
    image = compiler.compile_kernels(kernels, LEVEL_NAMES[0])
    for kernel, compiled in zip(kernels, image.kernels):
        mark = b"\xcctessera" + struct.pack("<II", 2, len(kernel.sizes))
        assert image.code[compiled.entry - 16:compiled.entry] == mark
    assert image.code.count(b"\xcctessera") == 3


def test_compilation_is_deterministic() -> None:
    kernels = [simple("a", f) for f in ("exp", "tanh", "sin")]
    first = compiler.compile_kernels(kernels, LEVEL_NAMES[0])
    compiler._cache.clear()
    assert compiler.compile_kernels(kernels, LEVEL_NAMES[0]) == first


def test_cache_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path / "cache"))
    compiler._cache.clear()
    first = compiler.compile_kernels([simple(n=52)], LEVEL_NAMES[0])
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 1
    monkeypatch.setattr(compiler, "assemble", None)
    compiler._cache.clear()
    assert compiler.compile_kernels([simple(n=52)], LEVEL_NAMES[0]) == first
    monkeypatch.undo()
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path / "cache"))
    files[0].write_bytes(files[0].read_bytes()[:-5])  # a damaged entry is compiled anew
    compiler._cache.clear()
    assert compiler.compile_kernels([simple(n=52)], LEVEL_NAMES[0]) == first


def test_levels() -> None:
    assert level_of_flags(levels._V3) == "x86-64-v3"
    assert level_of_flags(levels._V4 - {"avx512bw"}) == "x86-64-v3"
    assert level_of_flags({"sse2"}) is None
    assert level_named("x86-64-v3").vector_bytes == 32
    with pytest.raises(ArgumentError, match="cpu level 'avx9' is unknown; use one of x86-64-v2"):
        level_named("avx9")


def test_level_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CPU_LEVEL", "x86-64-v2")
    assert compiler.compile_kernels([simple()]).level == "x86-64-v2"


def test_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    host_level.cache_clear()
    try:
        monkeypatch.setattr(levels.platform, "machine", lambda: "aarch64")
        with pytest.raises(UnsupportedError, match='this machine is aarch64; use target="portable"'):
            host_level()
        monkeypatch.setattr(levels.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(levels, "_host_flags", lambda: {"sse2"})
        with pytest.raises(UnsupportedError, match="SSE4.2"):
            host_level()
        monkeypatch.setattr(levels, "_host_flags", lambda: levels._V2)
        host_level.cache_clear()
        with pytest.raises(DeviceError, match="code for x86-64-v4 cannot run on this CPU, which has x86-64-v2"):
            check_runs_here(LEVELS["x86-64-v4"])
    finally:
        host_level.cache_clear()


def test_unknown_function_is_named() -> None:
    with pytest.raises(CompileError, match="the function cbrt is not defined for f32"):
        compiler.compile_kernels([simple(function="cbrt")], LEVEL_NAMES[0])


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_no_function_needs_a_library(level: str) -> None:
    """Long copies and fills, which LLVM likes to turn into calls of memcpy and memset."""
    kernel = simple(function="abs", n=100_000)
    copy = replace(
        kernel,
        stages=(
            Stage((), (Load(0, (sym(kernel.grid[0].symbol),)), Store(1, (sym(kernel.grid[0].symbol),), Ref(0, 0)))),
        ),
    )
    x, y = np.arange(100_000, dtype=np.float32), filled(100_000, f32)
    Native(copy, level).run([x, y])
    assert np.array_equal(x, y)
