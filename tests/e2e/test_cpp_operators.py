"""The C++ program of docs/guide/cpp_operators.md compiles without warnings and prints what it should."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from tessera import graph

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "cpp_operators.md"


BLOCKS = re.findall(r"^```cpp\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def lines_of(program: str, folder: Path) -> list[str]:
    """What a C++ program prints."""
    (folder / "main.cpp").write_text(program)
    flags = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["g++", *warnings, "main.cpp", *flags, "-o", "main"], check=True, cwd=folder)
    done = subprocess.run(["./main"], check=True, capture_output=True, text=True, cwd=folder)
    return done.stdout.splitlines()


def test_program_of_the_page(tmp_path):
    out = lines_of(BLOCKS[0], tmp_path)
    assert out[0] == "0.0900 0.2447 0.6652"
    loss, weight = (float(n) for n in out[1].split())
    assert loss < 1e-6 and weight != 0
    assert out[2:4] == ["tessera.graph 1", 'graph "model" {'] and "  dim B in [1, 4096] multiple_of 1" in out
    assert any(re.search(r"= softmax\(%\d\) \{axis = 1\} : f32\[B, 2\] at \"main.cpp\":\d+$", line) for line in out)
    assert "[matmul] a has shape (2, 3) and b has shape (2, 3): the last dimension of a (3) must" in "\n".join(out)
    assert re.fullmatch(r"  at main.cpp:\d+", out[-1])
    assert graph.load(tmp_path / "model.tsr").outputs["p"].node.op == "softmax"


MAIN = r"""
int main() {
    const Tensor x = op::input("x", {op::dim("N", 3, 100), 4}), ids = op::input("ids", {3}, DType::I64);
    for (const auto &part : parts(x, ids))
        std::printf("%s\n", part.first.c_str());
    Graph::trace(parts(x, ids)).save("parts.tsr");
}
"""


def test_parts_of_a_tensor_are_those_of_numpy(tmp_path):
    head = "#include <tessera/runtime.h>\n#include <cstdio>\nusing namespace tessera;\n"
    names = lines_of(head + BLOCKS[1] + MAIN, tmp_path)
    assert len(names) == 11
    loaded = graph.load(tmp_path / "parts.tsr")
    for n in (3, 8):
        x, ids = np.arange(4.0 * n, dtype=np.float32).reshape(n, 4), np.array([2, 0, -1])
        found = loaded(x=x, ids=ids)
        for name in names:
            np.testing.assert_array_equal(found[name].numpy(), eval(name, {"x": x, "ids": ids, "n": n}), err_msg=name)
