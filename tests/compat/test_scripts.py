"""The same scripts under both packages; TINKEX_OFFICIAL_PYTHON is an interpreter with the official one."""

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


def test_a_blocking_script_reduces_the_loss(ours):
    found = ours["script_sync"]
    assert found["capabilities"] == ["tinkex/tiny", "tinkex/small", "tinkex/chat"]
    assert found["info"] == [4, True, "tinkex/tiny"]
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert found["outputs"][:2] == ["float32", [24]]
    assert found["nll"] == pytest.approx(found["again"], rel=1e-5)
    assert found["empty"] == ["", [], {}]


def test_a_blocking_script_samples(ours):
    found = ours["script_sync"]
    assert found["sample"] == found["submitted"] == found["named"]
    assert found["stop"] == ["length", "length"]
    assert found["logprobs"] == found["prompt_logprobs"]
    assert found["topk"][0] is None
    assert [len(row) for row in found["topk"][1:]] == [2] * 9


def test_a_blocking_script_increases_the_reward(ours):
    found = ours["script_sync"]
    assert len(found["rewards"]) == 6
    assert any(len(set(scores)) > 1 for scores in found["rewards"])
    # The sampled policy is the trained one, so every ratio is 1, and the advantages sum to 0.
    assert found["rl_losses"] == pytest.approx([0.0, 0.0], abs=1e-3)
    before, after = (sum(map(sum, found["rewards"][part])) for part in (slice(3), slice(3, 6)))
    assert after > before


def test_a_blocking_script_manages_checkpoints(ours):
    found = ours["script_sync"]
    assert found["again"] == found["fresh"]
    assert (found["run"], found["same"], found["rank"], found["name"]) == (4, True, 4, "weights/one")
    sampler, state = ["sampler_weights/kept", "sampler", False], ["weights/one", "training"]
    assert found["kept"] == [sampler, [*state, False]]
    assert found["published"] == [sampler, [*state, True]]
    assert found["left"] == [sampler]
    assert (found["url"], found["users"], found["runs"]) == (True, True, True)
    assert (found["models"], found["sampler"]) == (4, "tinkex/tiny")


def test_a_blocking_script_catches_the_official_errors(ours):
    found = ours["script_sync"]
    assert found["missing"] == ["NotFoundError", 404, 404, "GET", True, True]
    assert found["undeletable"] == ["NotFoundError", 404, 404, "DELETE", True, True]
    assert found["neither"] == ["ValueError", "Either model_path or base_model must be provided"]
    assert found["no_path"] == found["bad_path"] == ["ValueError", ""]
    assert found["refused"] == found["lost"] == ["RequestFailedError", "user", True, True]
    assert found["after"] is True
    assert found["enums"] == ["unknown", "server", "user"]


def test_an_asynchronous_script_gets_the_same_numbers(ours):
    found, blocking = ours["script_async"], ours["script_sync"]
    assert found["losses"] == blocking["losses"]
    assert found["logprobs"] == blocking["logprobs"]
    assert found["samples"] == [blocking["sample"]] * 5
    assert found["wrapped"] == blocking["sample"]
    assert found["awaited"] == found["asked"] == found["again"] == blocking["again"]
    assert (found["rewards"], found["rl_losses"]) == (blocking["rewards"], blocking["rl_losses"])
    assert (found["models"], found["models_there"], found["sessions"]) == (4, 3, 1)
    assert (found["url"], found["sampler"]) == (True, "tinkex/tiny")
    assert ["weights/one", True] in found["kept"]
    assert found["left"] == len(found["kept"]) - 1
    assert found["errors"] == ["NotFoundError", "ValueError", "ValueError"]
    assert (found["status"], found["body"]) == (404, ["detail"])


def same(ours, theirs):
    """Return whether the results are equal, except for the last digits of numbers."""
    if isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, dict):
        # Types here also have the fields of later versions of the official package, which are empty.
        return all(same(ours[key], theirs[key]) for key in theirs) and not any(
            ours[key] for key in ours.keys() - theirs.keys()
        )
    return bool(ours == theirs)


@pytest.mark.skipif(OFFICIAL is None, reason="TINKEX_OFFICIAL_PYTHON is not set")
@pytest.mark.parametrize("script", ["script_sync", "script_async"])
def test_the_official_package_gets_the_same_results(ours, server, script):
    theirs = run(server, "official", script)
    assert theirs.keys() == ours[script].keys()
    for name, value in theirs.items():
        assert same(ours[script][name], value), name


@pytest.fixture(scope="module")
def custom(server):
    pytest.importorskip("torch", reason="torch is not in this environment")
    return run(server, "ours", "script_custom_loss")


def test_a_custom_loss_is_reduced(custom):
    assert custom["losses"] == sorted(custom["losses"], reverse=True)
    assert len(set(custom["losses"])) == 4


@pytest.mark.skipif(OFFICIAL is None, reason="TINKEX_OFFICIAL_PYTHON is not set")
def test_the_official_package_gets_the_same_results_with_a_custom_loss(custom, server):
    assert same(custom, run(server, "official", "script_custom_loss"))
