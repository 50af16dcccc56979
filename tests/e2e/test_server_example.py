"""The server example, built against the installed package in a folder of its own: answers, new weights, trace, end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.cmake_project import build_project, needs_cmake

SERVER = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "server"

pytestmark = needs_cmake


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the repository with the built server and its model."""
    out = tmp_path_factory.mktemp("server")
    build_project(SERVER, out, "Debug")
    subprocess.run([sys.executable, str(out / "source" / "export.py"), "--folder", str(out)], check=True, cwd=out)
    return out


def command(folder: Path, requests: int) -> list[str]:
    files = ("model.tsr", "new.safetensors", "trace.json")
    return [str(folder / "build" / "server"), *(str(folder / name) for name in files), "4", str(requests)]


def counts(output: str) -> dict[str, int]:
    words = output.splitlines()[0].split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_every_answer_has_one_set_of_weights(folder):
    done = subprocess.run(command(folder, 2000), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nran cpu with ABI " in done.stdout
    found = counts(done.stdout)
    assert found["mixed"] == found["refused"] == 0 and found["swaps"] > 1
    assert found["old"] > 0 and found["new"] > 0 and found["old"] + found["new"] == 2000
    trace = json.loads((folder / "trace.json").read_text())
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    kernels = [event for event in events if event.get("ph") == "X"]
    assert len(kernels) > 100
    assert any("export.py" in json.dumps(event) for event in kernels)


def test_a_file_that_is_not_trusted_runs_in_its_portable_form(folder):
    done = subprocess.run([*command(folder, 50), "untrusted"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nran portable with ABI " in done.stdout
    found = counts(done.stdout)
    assert found["mixed"] == found["refused"] == 0 and found["old"] + found["new"] == 50


def test_sigterm_ends_it_cleanly(folder):
    (folder / "trace.json").unlink(missing_ok=True)
    server = subprocess.Popen(command(folder, 1_000_000_000), stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=60)
    assert server.returncode == 0, output
    assert counts(output)["mixed"] == 0
    json.loads((folder / "trace.json").read_text())


def test_a_missing_model_is_an_error(folder):
    arguments = [str(folder / "build" / "server"), "no.tsr", "no.safetensors", "trace.json"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot read no.tsr" in done.stderr
