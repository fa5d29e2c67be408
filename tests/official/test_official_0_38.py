"""The official SDKs 0.25.0 and 0.38.0, which use protocol 0.38, against the embedded server.

TINKEX_OFFICIAL38_PYTHON=PYTHON TINKEX_OFFICIAL25_PYTHON=PYTHON pytest tests/official, where the first has
tinker==0.38.0, the second tinker==0.25.0. Either may be left out.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tinkex_sync.local import LocalServer

HERE = Path(__file__).resolve().parent
PYTHONS = {"0.25.0": "TINKEX_OFFICIAL25_PYTHON", "0.38.0": "TINKEX_OFFICIAL38_PYTHON"}

#: A server configuration that turns all features on.
ALL = {
    "pjwt_auth_enabled": True,
    "parallel_fwdbwd_chunks": True,
    "proto_compress_fwdbwd": True,
    "sample_use_retrieve_futures": True,
    "sample_join_sampling_session": True,
    "fwdbwd_max_chunk_len": 300,
}
CASES = [(version, "0.38", {}) for version in PYTHONS] + [(version, "both", ALL) for version in PYTHONS]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{'all' if case[2] else 'plain'}")
def ran(request):
    """Run the SDK; return its version, the server's configuration, the output and the server's counters."""
    version, protocol, client_config = request.param
    python = os.environ.get(PYTHONS[version])
    if not python:
        pytest.skip(f"{PYTHONS[version]} is not set")
    with LocalServer(api_key="tml-official", protocol=protocol, client_config=client_config) as server:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment.update(TINKER_BASE_URL=server.base_url, TINKER_API_KEY="tml-official")
        done = subprocess.run(
            [python, str(HERE / "drive_0_38.py")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return version, client_config, json.loads(done.stdout), server.stats()


def test_the_sdk_trains(ran):
    version, _, seen, _ = ran
    assert seen["version"] == version
    assert "tinkex/tiny" in seen["models"]
    assert seen["losses"] == sorted(seen["losses"], reverse=True)
    assert seen["forward"] == seen["losses"][0]
    assert seen["chunked"] == [1030, 2]
    assert seen["info"] == ["tinkex/tiny", True, 8]
    assert all(isinstance(seen[loss], float) for loss in ("importance_sampling", "ppo", "cispo", "dro"))
    category, message = seen["user_error"]
    assert "user" in category.lower()
    assert "logprobs" in message


def test_the_sdk_saves_loads_and_samples(ran):
    _, _, seen, _ = ran
    before, resumed, plain = seen["restored"]
    assert before == resumed == plain > seen["resumed_trains"]
    assert [path.split("/", 3)[3] for path in seen["paths"]] == ["weights/first", "sampler_weights/weights-1"]
    assert seen["sample"][0] == seen["sample"][1] == seen["ephemeral"]
    assert (seen["logprobs"], seen["stop_reason"], seen["sequence_ids"]) == ([8, 8], "length", 2)
    assert seen["prompt_logprobs"] == [10, None, 10]
    assert (seen["topk"], seen["compute_logprobs"], seen["many"]) == (3, 10, 240)


def test_the_sdk_manages_checkpoints(ran):
    version, _, seen, _ = ran
    assert seen["run"] == ["tinkex/tiny", 8, {"who": "me"}, seen["paths"][0]]
    assert seen["weights_info"] == ["tinkex/tiny", True, 8]
    assert seen["checkpoints"] == ["sampler_weights/weights-1", "weights/first"]
    assert seen["after_delete"] == ["weights/first"]
    if version == "0.38.0":
        assert seen["external"] == "external_weights/out"
        assert seen["kept"] == [
            ["external_weights/out", "external", False],
            ["weights/first", "training", False],
            ["weights/kept", "training", True],
        ]
        assert seen["downloaded"] == {"out.tar.gz": True}
        assert seen["copied"] == "weights/kept"
        assert seen["scored"] == [True] * 6 + [False] * 4
        assert seen["targets"] == pytest.approx(seen["last"])
        assert (seen["alternatives"], seen["topk_sampled"]) == ([9, 3], [2, 2, 2])


def test_the_sdk_sends_protobuf_and_follows_the_server_configuration(ran):
    version, client_config, _, counts = ran
    assert "/api/v1/forward" not in counts["requests"]
    assert counts["requests"]["/api/v1/client/config"]["200"] >= 1
    assert counts["protobuf_requests"] == counts["requests"]["/api/v1/forward_backward"]["200"]
    assert counts["protobuf_results"] > 64
    assert [1024, 6] in [sizes[6:8] for sizes in counts["chunks"].values()] or client_config
    if client_config:
        assert counts["compressed_requests"] == counts["protobuf_requests"]
        assert counts["tokens_issued"] >= 1
    if version == "0.38.0":
        assert counts["sessions_finished"] == 1
        assert counts["samples_acknowledged"] == (65 if client_config else 0)
