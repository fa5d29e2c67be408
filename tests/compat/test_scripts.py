"""The same script texts under both packages; the official one where TINKEX_OFFICIAL_PYTHON names an interpreter."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
OFFICIAL = os.environ.get("TINKEX_OFFICIAL_PYTHON")


def run(server, package, script):
    python = sys.executable if package == "ours" else OFFICIAL
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.update(TINKER_BASE_URL=server.base_url, TINKER_API_KEY="local")
    if package == "ours":
        environment["PYTHONPATH"] = str(HERE.parent.parent)
    done = subprocess.run(
        [python, str(HERE / "run_script.py"), package, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours(server):
    return {script: run(server, "ours", script) for script in ("script_sync", "script_async")}


def test_a_blocking_script_runs(ours):
    found = ours["script_sync"]
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert found["empty"] == ["", [], {}]
    assert found["sample"] == found["submitted"]
    assert (found["run"], found["rank"], found["kept"]) == (4, 4, ["weights/one"])
    assert found["missing"] == [404, 404, True]
    assert found["request"] == "GET"
    assert "model_path" in found["neither"]


def test_an_asynchronous_script_runs_to_the_same_numbers(ours):
    found, blocking = ours["script_async"], ours["script_sync"]
    assert found["losses"] == blocking["losses"]
    assert found["samples"] == [blocking["sample"]] * 5
    assert found["models"] == 2


@pytest.mark.skipif(OFFICIAL is None, reason="TINKEX_OFFICIAL_PYTHON is not set")
@pytest.mark.parametrize("script", ["script_sync", "script_async"])
def test_the_official_package_finds_the_same(ours, server, script):
    theirs = run(server, "official", script)
    assert theirs.keys() == ours[script].keys()
    for name, value in theirs.items():
        if name == "logprobs":
            assert all(a == b or math.isclose(a, b, rel_tol=1e-6) for a, b in zip(value, ours[script][name]))
        else:
            assert value == ours[script][name], name
