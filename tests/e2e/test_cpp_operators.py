"""The C++ program of docs/guide/cpp_operators.md compiles without warnings and prints what it should."""

import re
import subprocess
import sys
from pathlib import Path

from tessera import graph

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "cpp_operators.md"


def test_program_of_the_page(tmp_path):
    (block,) = re.findall(r"^```cpp\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "main.cpp").write_text(block)
    flags = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["g++", *warnings, "main.cpp", *flags, "-o", "main"], check=True, cwd=tmp_path)
    out = subprocess.run(["./main"], check=True, capture_output=True, text=True, cwd=tmp_path).stdout.splitlines()
    assert out[0] == "0.0900 0.2447 0.6652"
    loss, weight = (float(n) for n in out[1].split())
    assert loss < 1e-6 and weight != 0
    assert out[2:4] == ["tessera.graph 1", 'graph "model" {'] and "  dim B in [1, 4096] multiple_of 1" in out
    assert any(re.search(r"= softmax\(%\d\) \{axis = 1\} : f32\[B, 2\] at \"main.cpp\":\d+$", line) for line in out)
    assert "[matmul] a has shape (2, 3) and b has shape (2, 3): the last dimension of a (3) must" in "\n".join(out)
    assert re.fullmatch(r"  at main.cpp:\d+", out[-1])
    assert graph.load(tmp_path / "model.tsr").outputs["p"].node.op == "softmax"
