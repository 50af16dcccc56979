"""Every example runs; the guide's snippets in them are the guide's text."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tessera import graph

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SNIPPET_1_2 = """\
from tessera import op, graph, dist

# Define a simple MLP
X = op.tensor((B, D), dtype="bf16")
Y = op.mlp(in_dim=D, hidden=[8192], out_dim=D)(X)

# Training step with autodiff
@graph.training_step
def step(batch):
    out = Y(batch["input"])
    loss = op.cross_entropy(out, batch["labels"])
    grads = graph.backward(loss)
    return grads, {"loss": loss}
"""

SNIPPET_1_3 = """\
mesh = dist.Mesh(axes=["dp","tp"], devices=range(8))

W = dist.tensor((1024, 1024),
                layout=dist.ShardSpec(partition=("row","col"), mesh_axes=("dp","tp")),
                mesh=mesh)

Y = op.matmul(W, W.T)
"""

SNIPPET_1_4 = """\
#include <tessera/runtime.h>
using namespace tessera;

int main() {
    // Create a tensor
    Tensor A = Tensor::create({1024, 1024}, DType::BF16);

    // Define an operator (MatMul)
    Tensor B = Tensor::create({1024, 1024}, DType::BF16);
    Tensor C = op::matmul(A, B);

    // Execute
    Runtime rt;
    rt.submit(C);
    rt.wait();

    return 0;
}
"""

SNIPPET_1_5_PYTHON = """\
compiled = graph.compile(Y, target="ptx")
compiled.save("mlp.tsr")
"""

SNIPPET_1_5_CPP = """\
Graph g = Graph::load("mlp.tsr");
Runtime rt;
rt.submit(g);
"""


def region(path: str) -> str:
    found = re.search(r"guide: begin\n(.*?)^[^\n]*guide: end", (EXAMPLES / path).read_text(), re.MULTILINE | re.DOTALL)
    assert found, path
    return textwrap.dedent(found.group(1))


def python(path: str, cwd: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / path), *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def flags() -> list[str]:
    return subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()


def cpp(path: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = cwd / Path(path).stem
    if not program.exists():
        subprocess.run(
            ["g++", "-Wall", "-Wextra", "-Werror", str(EXAMPLES / path), *flags(), "-o", str(program)], check=True
        )
    return subprocess.run([str(program), *arguments], cwd=cwd, capture_output=True, text=True)


def test_snippets_are_the_guide_s():
    assert region("guide_1_2.py") == SNIPPET_1_2
    assert region("guide_1_3.py") == SNIPPET_1_3
    assert (EXAMPLES / "guide_1_4.cpp").read_text().endswith(SNIPPET_1_4)
    assert region("guide_1_5.py") == SNIPPET_1_5_PYTHON
    assert region("guide_1_5.cpp") == SNIPPET_1_5_CPP


def test_guide_1_2(tmp_path):
    out = python("guide_1_2.py", tmp_path)
    assert "bf16[64, 8192]" in out
    assert 0 < float(out.rsplit("loss:", 1)[1]) < 20


def test_guide_1_3(tmp_path):
    out = python("guide_1_3.py", tmp_path)
    assert "Mesh(dp=2, tp=4; 8 cpu devices)" in out and "all_gather over dp" in out and "guide_1_3.py:" in out
    assert float(out.rsplit("NumPy:", 1)[1]) < 1e-5


def test_sharded_training(tmp_path):
    out = python("sharded_training.py", tmp_path, "2")
    assert out.count("on Mesh(dp=2, tp=2; 4 cpu devices)") == 2 and "all_reduce over tp" in out


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_guide_1_4(tmp_path):
    assert cpp("guide_1_4.cpp", tmp_path).returncode == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_guide_1_5(tmp_path):
    out = python("guide_1_5.py", tmp_path)
    assert "targets: ptx" in out and (tmp_path / "mlp.tsr").exists()
    done = cpp("guide_1_5.cpp", tmp_path)
    if done.returncode != 0:  # no NVIDIA GPU, and the file holds nothing else: an error that says so
        assert "tessera::Error" in done.stderr and "mlp.tsr: " in done.stderr and "the file has" in done.stderr
    else:
        assert "ran on ptx" in done.stdout


def test_digits_demo(tmp_path):
    out = python("digits/demo.py", tmp_path, "--folder", "out")
    rates = [float(r) for r in re.findall(r"([\d.]+)%", out)]
    assert len(rates) >= 2 and all(r >= 97 for r in rates[-2:]), out
    assert "bit for bit" in out


def test_gpt2_learns(tmp_path):
    out = python("gpt2/train.py", tmp_path, "--steps", "40", "--write", "8")
    before, after = (float(x) for x in re.findall(r"([\d.]+) nats a byte", out))
    assert abs(before - np.log(256)) < 0.1 and after < 3.4 and "def " in out, out
    tokens = np.random.default_rng(0).integers(0, 256, (3, 64))
    logits = graph.load(tmp_path / "gpt2.tsr")(tokens).numpy()
    np.testing.assert_allclose(logits, gpt2_in_torch(load_file(tmp_path / "gpt2.tsr"), tokens), rtol=1e-3, atol=1e-3)


def gpt2_in_torch(weights: dict[str, torch.Tensor], tokens: np.ndarray, layers: int = 2, heads: int = 4) -> np.ndarray:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["token"][torch.tensor(tokens)] + weights["position"][: tokens.shape[1]]
    for name in (f"block{i}" for i in range(layers)):
        parts = linear(norm(x, f"{name}.norm1"), f"{name}.attend").chunk(3, -1)
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in parts)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(a.transpose(1, 2).flatten(2), f"{name}.mix")
        x = x + linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.up")), f"{name}.down")
    return (norm(x, "norm") @ weights["token"].T).numpy()


def state_of(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items() if not name.startswith("tessera.pad.")}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_training_in_cpp_equals_python_and_resumes(tmp_path):
    python("train_cpp/export.py", tmp_path, "--steps", "100")  # writes train.tsr, batches and Python's final state
    expected = state_of(tmp_path / "python.safetensors")

    done = cpp("train_cpp/train.cpp", tmp_path, "--steps", "100", "--state", "straight.safetensors")
    assert done.returncode == 0, done.stderr
    found = state_of(tmp_path / "straight.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []

    killed = cpp("train_cpp/train.cpp", tmp_path, "--steps", "100", "--state", "resumed.safetensors", "--kill-at", "57")
    assert killed.returncode == -9
    done = cpp("train_cpp/train.cpp", tmp_path, "--steps", "100", "--state", "resumed.safetensors")
    assert done.returncode == 0 and "resumed at step" in done.stdout
    assert state_of(tmp_path / "resumed.safetensors") == expected
    assert np.isfinite(float(done.stdout.rsplit("loss", 1)[1]))
