"""The code in the documentation runs as it stands."""

import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from tessera import op
from tessera.op.opdef import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs/guide").glob("*.md")))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "docs"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, block in enumerate(blocks(page, "python")):
            exec(compile(block, f"{page}#{number}", "exec"), scope)


def test_readme_cpp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    (tmp_path / "main.cpp").write_text(blocks("README.md", "cpp")[0])
    flags = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run(["g++", "main.cpp", *flags, "-o", "main"], check=True)
    done = subprocess.run(["./main"], check=True, capture_output=True, text=True)
    assert np.isfinite(float(done.stdout))


def included(page: str) -> list[tuple[str, str, str]]:
    """(file, region, code) of the blocks that a comment before them says to come from an example."""
    pattern = r"^<!-- (\S+): (\S+) -->\n```\w*\n(.*?)^```"
    return re.findall(pattern, (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


WITH_EXAMPLES = [*PAGES, "docs/tsr_format.md", "docs/abi_promise.md"]


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_included_code_is_that_of_the_examples(page):
    for path, region, code in included(page):
        marked = rf"^[^\n]*docs: {region}\n(.*?)^[^\n]*docs: end"
        found = re.search(marked, (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)
        assert found, f"{path} has no region {region}"
        assert textwrap.dedent(found.group(1)) == code, f"{page}: {path}: {region}"


@pytest.mark.parametrize(
    ("page", "regions"),
    [
        ("docs/guide/embedding.md", {"runtime", "worker", "run", "swap", "trace"}),
        ("docs/guide/writing_operators.md", {"swiglu"}),
        ("docs/guide/cluster.md", {"load"}),
        ("docs/guide/streams_and_memory.md", {"own_stream", "between_kernels"}),
        ("docs/tsr_format.md", {"untrusted"}),
        ("docs/abi_promise.md", {"version"}),
    ],
)
def test_pages_have_their_code_from_the_examples(page, regions):
    assert {region for _, region, _ in included(page)} == regions


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_untrusted_files_in_both_standards(tmp_path, standard):
    """The two spellings of docs/tsr_format.md compile."""
    old, new = blocks("docs/tsr_format.md", "cpp")
    body = old if standard == "c++17" else new
    (tmp_path / "main.cpp").write_text(
        f"#include <tessera/runtime.h>\nusing namespace tessera;\nGraph load(const char *model) {{\n{body}\n}}\n"
    )
    flags = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags"], check=True, capture_output=True, text=True
    ).stdout.split()
    command = ["g++", "-fsyntax-only", *flags, f"-std={standard}", "-Wall", "-Wno-unused", "main.cpp"]
    subprocess.run(command, check=True, cwd=tmp_path)


def test_links():
    for page in [*PAGES, "CONTRIBUTING.md", "docs/tsr_format.md"]:
        prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)", prose):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_new_operator_of_contributing():
    scope: dict[str, object] = {"__name__": "squareplus"}
    try:
        exec(compile(blocks("CONTRIBUTING.md", "python")[0], "CONTRIBUTING.md", "exec"), scope)
        x = op.tensor((3, 4), name="x")
        y = scope["squareplus"](x, 2.0)
        values = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
        expected = (values + np.sqrt(values * values + 2.0)) / 2
        from tessera import graph

        assert np.allclose(y(values).numpy(), expected, rtol=1e-6)
        slope = graph.backward(op.sum(y), wrt=x)
        assert np.allclose(slope(values).numpy(), 0.5 + values / (2 * np.sqrt(values**2 + 2.0)), rtol=1e-5)
        assert "squareplus" in str(y.graph)
    finally:
        REGISTRY.pop("squareplus", None)
