"""The installed library: what it exports and needs, and that other build systems find it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tessera

PACKAGE = Path(tessera.__file__).parent
LIBRARY = PACKAGE / "lib" / "libtessera.so"
PROGRAM = """#include <tessera/runtime.h>
int main() {
    tessera::Tensor a = tessera::Tensor::create({2, 2}, tessera::DType::F32);
    tessera::Runtime rt(1);
    tessera::Tensor b = tessera::op::exp(a);
    rt.submit(b).wait();
    return b.data<float>()[3] == 1.0f ? 0 : 1;
}
"""


def output(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def test_size():
    assert LIBRARY.stat().st_size <= 3_000_000


@pytest.mark.skipif(not shutil.which("nm"), reason="needs binutils")
def test_only_the_c_abi_is_exported():
    names = [line.split()[-1] for line in output("nm", "-D", "--defined-only", str(LIBRARY)).splitlines()]
    assert names and all(name.startswith("tsr_") for name in names)
    declared = re.findall(r"TSR_API [^;(]*?\b(tsr_\w+)\(", (PACKAGE / "include/tessera/c_api.h").read_text())
    assert sorted(names) == sorted(declared)


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs binutils")
def test_depends_on_the_cpp_library_only():
    needed = re.findall(r"NEEDED.*\[(.+?)\]", output("readelf", "-d", str(LIBRARY)))
    assert set(needed) <= {
        "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "libpthread.so.0", "libdl.so.2",
        "ld-linux-x86-64.so.2",
    }


def test_headers_are_few_and_stand_alone(tmp_path):
    headers = sorted((PACKAGE / "include" / "tessera").glob("*.h"))
    assert len(headers) <= 10
    for header in headers:
        source = tmp_path / f"{header.stem}.cpp"
        source.write_text(f"#include <tessera/{header.name}>\n#include <tessera/{header.name}>\n")
        subprocess.run(
            ["g++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", source],
            check=True,
            env={**os.environ, "CPLUS_INCLUDE_PATH": f"{PACKAGE}/include"},
        )


def pkg_config():
    """The values of the pkg-config file, with its variables replaced."""
    folder = PACKAGE / "lib" / "pkgconfig"
    if shutil.which("pkg-config"):
        environment = {**os.environ, "PKG_CONFIG_PATH": str(folder)}
        return output("pkg-config", "--cflags", "--libs", "tessera", env=environment).split()
    variables = {"pcfiledir": str(folder)}
    flags = []
    for line in (folder / "tessera.pc").read_text().splitlines():
        line = re.sub(r"\$\{(\w+)\}", lambda m: variables[m.group(1)], line)
        if match := re.match(r"(\w+)=(.*)", line):
            variables[match.group(1)] = match.group(2)
        elif match := re.match(r"(Cflags|Libs): (.*)", line):
            flags += match.group(2).split()
    return flags


def test_pkg_config(tmp_path):
    (tmp_path / "main.cpp").write_text(PROGRAM)
    subprocess.run(["g++", "-std=c++17", "main.cpp", "-o", "main", *pkg_config()], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "main"], check=True)
