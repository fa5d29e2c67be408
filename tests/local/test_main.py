"""The command line of the embedded server."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import requests
from server_calls import Wire
from server_processes import ROOT, foreground

from tinkex_sync.local.__main__ import main


def test_flags_set_the_options_of_the_server(tmp_path):
    process, url = foreground(
        *("--data", str(tmp_path / "d"), "--api-key", "tml-k", "--hold", "0.2"),
        *("--model", "a/b", "--model", "c/d"),
        *("--fault-admit-per-second", "0.001", "--fault-pause-reason", "x"),
        *("--fault-fail-first", '{"healthz": [503]}'),
    )
    with process:
        with Wire(SimpleNamespace(base_url=url), **{"X-API-Key": "tml-k"}) as wire:
            names = [one["model_name"] for one in wire.get("get_server_capabilities").json()["supported_models"]]
            assert {"a/b", "c/d"} <= set(names)
            assert [wire.get("healthz").status_code for _ in range(2)] == [503, 200]
            sampler = wire.sampler(wire.session())
            assert [wire.sample(sampler, seq).status_code for seq in range(2)] == [200, 429]
            assert wire.http.get(f"{url}/__faults", timeout=10).json()["pause_reason"] == "x"
            assert wire.http.get(f"{url}/__stats", headers={"X-API-Key": "no"}, timeout=10).status_code == 401
        assert (tmp_path / "d" / "sessions").is_dir()
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault-pause", "soon"], "pause"),
        (["--fault-latency", '{"nowhere": 1}'], "nowhere"),
        (["--port", "x"], "--port"),
        (["--port", "99999"], "port must be"),
        (["--hold", "-1"], "hold must be"),
        (["--protocol", "0.8"], "0.8"),
        (["--like", "other"], "--like"),
        (["--client-config", "fwdbwd=1"], "unknown key 'fwdbwd'"),
        (["--client-config", "fwdbwd_max_chunk_len"], "NAME=VALUE"),
    ],
)
def test_invalid_flag_is_a_usage_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["tinkex_sync", "serve"], ["tinkex_sync.local"]])
def test_flags_set_protocol_and_client_config(command):
    flags = ["--protocol", "0.38"]
    flags += ["--client-config", "fwdbwd_max_chunk_len=7", "--client-config", "pjwt_auth_enabled=true"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *command, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        (url,) = re.findall(r"http://\S+", process.stdout.readline())
        config = requests.post(f"{url}/api/v1/client/config", json={}, timeout=30).json()
        assert (config["fwdbwd_max_chunk_len"], config["pjwt_auth_enabled"]) == (7, True)
        assert requests.post(f"{url}/api/v1/auth/token", json={}, timeout=30).json()["jwt"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("flags", "message"), [(["--protocol", "0.8"], "0.8"), (["--client-config", "fwdbwd=1"], "unknown key 'fwdbwd'")]
)
def test_invalid_flag_of_serve_is_a_usage_error(flags, message):
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_sync", "serve", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
