"""``tinkex-sync serve``: the address it prints, its options, and Ctrl-C. Other options are tested in tests/local."""

import json
import re
import signal

import pytest

from tinkex_sync import ServiceClient


def test_the_server_runs_until_ctrl_c_at_the_address_it_prints(command, tmp_path):
    with command.start("serve", "--data", tmp_path / "new" / "data", "--api-key", "secret") as process:
        lines = [process.stdout.readline() for _ in range(3)]
        base_url = re.search(r"listens on (\S+) ", lines[0]).group(1)
        assert lines[1] == f"  export TINKER_BASE_URL={base_url} TINKER_API_KEY=KEY\n"
        with ServiceClient(base_url=base_url, api_key="secret") as service:
            assert service.get_server_capabilities().supported_models
        assert (tmp_path / "new" / "data").is_dir()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--fault-fail-first", "17"], "--fault-"),
        (["--client-config", "nonsense"], "--client-config"),
        (["--protocol", "9"], "--protocol"),
        (["--port", "70000"], "--port"),
    ],
)
def test_a_wrong_option_is_named(arguments, reason, command):
    done = command("serve", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_a_folder_that_cannot_be_created_is_named_with_its_option(command, tmp_path):
    (tmp_path / "file").touch()
    done = command("serve", "--data", tmp_path / "file" / "data")
    assert done.returncode == 1
    assert "--data" in done.stderr
    assert "port" not in done.stderr


def test_a_host_that_is_not_of_this_machine_is_named(command):
    done = command("serve", "--host", "192.0.2.1")
    assert done.returncode == 1
    assert "cannot serve on 192.0.2.1 port 0" in done.stderr


def test_with_json_the_address_is_one_document(command):
    with command.start("serve", "--format", "json") as process:
        lines = iter(process.stdout.readline, "")
        document = json.loads("".join([line for _, line in zip(range(4), lines)]))
        with ServiceClient(base_url=document["base_url"], api_key="any") as service:
            assert service.get_server_capabilities().supported_models
        assert document["needs_api_key"] is False
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert rest == ""
