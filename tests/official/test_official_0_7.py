"""The official SDK 0.7.0 against the embedded server.

TINKEX_OFFICIAL_PYTHON=PYTHON pytest tests/official, where PYTHON has tinker==0.7.0, torch and numpy.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tinkex_sync.local import Faults, LocalServer

PYTHON = Path(os.environ["TINKEX_OFFICIAL_PYTHON"])
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def server():
    with LocalServer(api_key="tml-official") as running:
        yield running


@pytest.fixture(scope="module")
def run(server):
    """Return a function that runs a command of the official environment with the server's address."""

    def run(*command, status=0):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment.update(TINKER_BASE_URL=server.base_url, TINKER_API_KEY="tml-official", COLUMNS="200")
        done = subprocess.run(
            [str(PYTHON), *command], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


@pytest.fixture(scope="module")
def seen(run):
    return json.loads(run(str(HERE / "drive_0_7.py"), "everything"))


def test_the_sdk_trains(seen):
    assert "tinkex/tiny" in seen["models"]
    assert seen["losses"][-1] < seen["losses"][0]
    assert seen["chunked"] == [1030, 2]
    assert seen["info"] == ["tinkex/tiny", True, 8]
    assert seen["custom"] > 0
    for loss_fn in ("importance_sampling", "ppo", "cispo", "dro"):
        assert "loss:sum" in seen[loss_fn]


def test_the_sdk_splits_a_large_batch_in_order(seen, server):
    assert any(sizes[i : i + 2] == [1024, 6] for sizes in server.stats()["chunks"].values() for i in range(len(sizes)))


def test_the_sdk_reports_a_failed_operation(seen):
    category, message = seen["user_error"]
    assert "user" in category.lower()
    assert "logprobs" in message


def test_the_sdk_saves_and_loads(seen):
    before, after, resumed, plainly = seen["restored"]
    assert before == after == resumed == plainly
    assert [path.split("/", 3)[3] for path in seen["paths"]] == ["weights/first", "sampler_weights/weights-1"]


def test_the_sdk_samples(seen):
    assert seen["sample"][0] == seen["sample"][1] == seen["ephemeral"]
    assert seen["logprobs"] == [8, 8]
    assert (seen["stop_reason"], seen["stopped"]) == ("length", "stop")
    assert seen["prompt_logprobs"] == [10, None, 10]
    assert (seen["topk"], seen["compute_logprobs"], seen["many"], seen["image"]) == (3, 10, 240, 2)


def test_the_sdk_manages_runs_checkpoints_and_sessions(seen):
    assert seen["runs"] == [2, 3]
    assert seen["run"] == ["tinkex/tiny", 8, {"who": "me"}, seen["paths"][0]]
    assert seen["same_run"] is True
    assert seen["weights_info"] == ["tinkex/tiny", True, 8]
    assert seen["checkpoints"] == ["sampler_weights/weights-1", "weights/first"]
    assert seen["public"] == [True]
    # Of sampler weights: only the archive of a training checkpoint has arrays.npz too.
    assert seen["archive"] == ["adapter_config.json", "adapter_model.safetensors", "checkpoint.json"]
    assert seen["session"] == [True, 3]
    assert seen["sampler"][0] == "tinkex/tiny"
    assert seen["after_delete"] == ["weights/first"]
    assert "404" in seen["deleted_twice"]
    assert "no/such-model" in seen["unknown_model"]


def test_the_command_line_of_the_sdk_works(seen, run, tmp_path):
    state = seen["paths"][0]
    run_id = state.split("/")[2]
    cli = ("-m", "tinker.cli")
    listed = json.loads(run(*cli, "-f", "json", "run", "list", "--limit", "5"))
    assert run_id in [one["training_run_id"] for one in listed["runs"]]
    assert json.loads(run(*cli, "-f", "json", "run", "info", run_id))["lora_rank"] == 8
    found = json.loads(run(*cli, "-f", "json", "checkpoint", "list", "--run-id", run_id))
    assert [one["tinker_path"] for one in found["checkpoints"]] == [state]
    run(*cli, "checkpoint", "publish", state)
    assert json.loads(run(*cli, "-f", "json", "checkpoint", "info", state))["public"] is True
    run(*cli, "checkpoint", "unpublish", state)
    run(*cli, "checkpoint", "download", state, "-o", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "arrays.npz",
        "checkpoint.json",
    ]
    run(*cli, "checkpoint", "delete", "-y", state)
    assert "not found" in run(*cli, "run", "info", "nothing", status=1).lower()


def test_the_sdk_succeeds_by_retries_while_the_server_has_faults(server, run):
    before = server.stats()
    server.set_faults(
        Faults(
            admit_per_second=20,
            admit_burst=10,
            refusal_state="paused_capacity",
            pause=2,
            pause_reason="maintenance",
            fail_first={"create_sampling_session": [503], "retrieve_future": [500, 502, 503], "optim_step": [500]},
            drop_before={"create_model": 1, "asample": 1},
            drop_after={"forward_backward": 1, "asample": 1},
            expire_promises=1,
            try_again_polls=2,
        )
    )
    try:
        found = json.loads(run(str(HERE / "drive_0_7.py"), "retry"))
    finally:
        server.set_faults(Faults())
    assert found["sampled_with_faults"] == 160
    losses = found["losses_with_faults"]
    assert losses == sorted(losses, reverse=True)
    after = server.stats()
    assert after["samples_refused"] > before["samples_refused"]
    # The response of one forward_backward was lost; its retry did not add the gradients a second time.
    assert after["optim_steps"] - before["optim_steps"] == 3
    assert after["datums_done"] - before["datums_done"] == 3


def test_both_packages_send_the_same_bodies_in_the_same_chunks():
    from side_by_side import side_by_side

    assert side_by_side(os.environ["TINKEX_OFFICIAL_PYTHON"]) == []
