"""Replies to a file of prompts: what is written, what is refused, and what failed ones become."""

import contextlib
import json
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
from command_runs import KEY, Commands, in_process, variables
from scripted_server import Answer, ScriptedServer

MODEL = ["--model", "tinkex/tiny", "--max-tokens", "4"]


@pytest.fixture
def command(server):
    """Run a command against the embedded server."""
    return partial(in_process, variables(server.base_url))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path):
    """Write prompts, one line for each."""

    def write(*contents, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in contents))
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "replies.jsonl"


def test_every_prompt_has_its_reply(command, prompts, out):
    asked = prompts({"prompt": "hello", "id": "a"}, "\n", {"prompt": [1, 2, 3], "id": 7}, {"prompt": "ü"})
    done = command("sample", asked, "-o", out, *MODEL, "-n", "2", "--logprobs", "--seed", "5", "-f", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("prompts", "answered", "failed", "new")} == {
        "prompts": 3,
        "answered": 3,
        "failed": 0,
        "new": 3,
    }
    replies = sorted(lines(out), key=lambda reply: reply["index"])
    assert [(reply["index"], reply.get("id")) for reply in replies] == [(0, "a"), (1, 7), (2, None)]
    for reply in replies:
        assert len(reply["sequences"]) == 2
        for sequence in reply["sequences"]:
            assert len(sequence["tokens"]) == len(sequence["logprobs"]) <= 4
            assert sequence["stop_reason"] in ("length", "stop")
            assert isinstance(sequence["text"], str)
    again = command("sample", asked, "-o", out, *MODEL, "-n", "2", "--logprobs", "--seed", "5")
    assert again.returncode == 0
    assert "3 of 3 prompts have replies already" in again.stderr
    assert sorted(lines(out), key=lambda reply: reply["index"]) == replies


def test_weights_that_were_saved(command, prompts, out, saved):
    asked = prompts({"prompt": "hello"})
    done = command("sample", asked, "-o", out, "-m", saved.sampler, "--max-tokens", "2", "--stop", "zz")
    assert done.returncode == 0, done.stderr
    assert len(lines(out)[0]["sequences"][0]["tokens"]) <= 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "not JSON"),
        ("[1]\n", "not an object but [1]"),
        ('{"text": "a"}\n', "no \"prompt\" in it, only 'text'"),
        ('{"prompt": ""}\n', "is empty"),
        ('{"prompt": []}\n', "is empty"),
        ('{"prompt": [1, -2]}\n', "-2 at place 1"),
        ('{"prompt": [1, true]}\n', "True at place 1"),
        ('{"prompt": 5}\n', "must be text or a list"),
        ('{"prompt": "a", "id": [1]}\n', '"id" is [1]'),
        ('{"prompt": "\\ud800"}\n', "half a surrogate pair"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_sent(line, reason, command, server, prompts, out):
    asked = prompts({"prompt": "good"}, "\n", line)
    before = server.stats()["requests"]
    done = command("sample", asked, "-o", out, *MODEL)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {asked}, line 3: ")
    assert reason in done.stderr
    after = server.stats()["requests"]
    assert {name: after.get(name) for name in ("/api/v1/create_session", "/api/v1/asample")} == {
        name: before.get(name) for name in ("/api/v1/create_session", "/api/v1/asample")
    }
    assert not out.exists()


def test_files_that_will_not_do(command, prompts, out, tmp_path):
    assert "no such" in command("sample", tmp_path / "none", "-o", out, *MODEL).stderr.lower()
    assert "holds no prompt" in command("sample", prompts("\n"), "-o", out, *MODEL).stderr
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe4"}\n')
    assert "line 1: not UTF-8" in command("sample", tmp_path / "latin.jsonl", "-o", out, *MODEL).stderr
    asked = prompts({"prompt": "a"})
    assert "is the file of prompts" in command("sample", asked, "-o", asked, *MODEL).stderr
    missing = command("sample", asked, "-o", tmp_path / "no" / "folder.jsonl", *MODEL)
    assert missing.returncode == 1
    assert "cannot write" in missing.stderr
    assert command("sample", asked, "-o", out, *MODEL, "--top-k", "0").returncode == 2
    assert not out.exists()


def test_other_prompts_or_settings_are_refused(command, prompts, out, tmp_path):
    asked = prompts({"prompt": "a"})
    assert command("sample", asked, "-o", out, *MODEL).returncode == 0
    before = out.read_bytes()
    changed = command("sample", prompts({"prompt": "b"}), "-o", out, *MODEL)
    assert changed.returncode == 1
    assert "answers other prompts" in changed.stderr
    asked = prompts({"prompt": "a"})
    other = command("sample", asked, "-o", out, *MODEL, "--temperature", "0.5")
    assert other.returncode == 1
    assert "temperature was 1.0, is 0.5" in other.stderr
    strange = tmp_path / "strange.jsonl"
    strange.write_text("mine\n")
    assert "is there already" in command("sample", asked, "-o", strange, *MODEL).stderr
    assert strange.read_text() == "mine\n"
    out.write_bytes(b"rubbish\n" + before)
    assert "line 1: not a reply" in command("sample", asked, "-o", out, *MODEL).stderr
    out.write_bytes(before + before)
    assert "line 2: prompt 0 has a reply already" in command("sample", asked, "-o", out, *MODEL).stderr
    assert out.read_bytes() == before + before


@pytest.fixture
def scripted():
    """A server whose every reply is two tokens, at once."""
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
        server.defaults["asample"] = lambda request: Answer(body={"request_id": f"r{request.body['seq_id']}"})
        server.defaults["retrieve_future"] = reply
        yield server


def reply(request):
    return Answer(body={"sequences": [{"tokens": [104, 105], "stop_reason": "length"}]})


def test_failed_prompts_are_told_of_and_tried_again(scripted, prompts, out):
    command = partial(in_process, variables(scripted.base_url))
    asked = prompts(*({"prompt": f"{place}"} for place in range(20)))
    failure = Answer(body={"error": "too odd", "category": "user"})
    scripted.script("retrieve_future", *[failure] * 3)
    done = command("sample", asked, "-o", out, *MODEL, "-f", "json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["answered"], told["failed"]) == (17, 3)
    assert "Run the same command again" in done.stderr
    failed = [line for line in lines(out) if "error" in line]
    assert [line["error"]["type"] for line in failed] == ["RequestFailedError"] * 3
    assert "too odd" in failed[0]["error"]["message"]
    sent = len(scripted.sent("asample"))
    again = command("sample", asked, "-o", out, *MODEL)
    assert again.returncode == 0, again.stderr
    assert len(scripted.sent("asample")) == sent + 3
    assert sorted(line["index"] for line in lines(out)) == list(range(20))
    assert all(line["sequences"][0]["text"] == "hi" for line in lines(out))


def test_stopping_at_the_first_failure(scripted, prompts, out):
    scripted.script("retrieve_future", Answer(body={"error": "too odd", "category": "user"}))
    asked = prompts({"prompt": "a"}, {"prompt": "b"})
    command = partial(in_process, variables(scripted.base_url))
    done = command("sample", asked, "-o", out, *MODEL, "--on-error", "stop", "--concurrency", "1")
    assert done.returncode == 1
    assert "prompt 0 failed" in done.stderr
    assert len(scripted.sent("asample")) == 1
    assert command("sample", asked, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in lines(out)) == [0, 1]


def test_an_error_that_is_not_the_prompts_ends_it(scripted, prompts, out):
    asked = prompts(*({"prompt": f"{place}"} for place in range(50)))
    scripted.script("asample", *[scripted.defaults["asample"]] * 10, *[Answer(401, {"detail": "key"})] * 40)
    command = partial(in_process, variables(scripted.base_url))
    done = command("sample", asked, "-o", out, *MODEL, "--concurrency", "5")
    assert done.returncode == 1
    assert "Authentication failed" in done.stderr
    assert "Run the same command again to go on" in done.stderr
    assert all("error" not in line for line in lines(out))
    assert len(scripted.sent("asample")) < 30
    scripted.clear()
    assert command("sample", asked, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in lines(out)) == list(range(50))


def test_why_it_waits_is_shown(scripted, prompts, out):
    paused = {
        "type": "try_again",
        "request_id": "r",
        "queue_state": "paused_capacity",
        "queue_state_reason": "full",
    }
    scripted.script("retrieve_future", Answer(body=paused))
    done = partial(in_process, variables(scripted.base_url))(
        "sample", prompts({"prompt": "a"}), "-o", out, *MODEL
    )
    assert done.returncode == 0
    assert "full" in done.stderr
    assert "1 of 1 prompts" in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_bar_on_a_terminal(scripted, prompts, out):
    ours, theirs = os.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):
            while content := os.read(ours, 4096):
                shown.append(content)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    paused = {
        "type": "try_again",
        "request_id": "r",
        "queue_state": "paused_capacity",
        "queue_state_reason": "full",
    }
    scripted.script("retrieve_future", Answer(body=paused))
    asked = prompts(*({"prompt": f"{place}"} for place in range(5)))
    command = Commands(variables(scripted.base_url))
    with command.start("sample", asked, "-o", out, *MODEL, stderr=theirs, env={"COLUMNS": "120"}) as running:
        assert running.wait(timeout=60) == 0
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = b"".join(shown).decode()
    assert "5/5" in text
    assert "full" in text


def test_a_tokenizer_that_does_not_fit(scripted, prompts, out):
    wild = Answer(body={"sequences": [{"tokens": [151000], "stop_reason": "length"}]})
    scripted.script("retrieve_future", wild)
    done = in_process(variables(scripted.base_url), "sample", prompts({"prompt": "a"}), "-o", out, *MODEL)
    assert done.returncode == 1
    assert "--tokenizer" in done.stderr


def test_two_processes_do_not_share_an_output_and_ctrl_c_keeps_what_has_come(scripted, prompts, out):
    held = threading.Event()
    answered = [reply] * 3

    def hold(request):
        return Answer(body=None, drop=True, hold=lambda: held.wait(30))

    scripted.script("retrieve_future", *answered)
    scripted.defaults["retrieve_future"] = hold
    asked = prompts(*({"prompt": f"{place}"} for place in range(8)))
    command = Commands(variables(scripted.base_url))
    try:
        first = command.start("sample", asked, "-o", out, *MODEL)
        while not out.exists() or len(out.read_bytes().splitlines()) < 3:
            assert first.poll() is None, first.communicate()
            held.wait(0.02)
        second = in_process(command.environment, "sample", asked, "-o", out, *MODEL)
        assert second.returncode == 1
        assert "another process is writing" in second.stderr
        os.kill(first.pid, signal.SIGINT)
        said, errors = first.communicate(timeout=20)
    finally:
        held.set()
    assert (first.returncode, said) == (130, "")
    assert "3 of 8 prompts have replies" in errors
    assert "Run the same command again to go on" in errors
    assert "Interrupted." in errors
    scripted.defaults["retrieve_future"] = reply
    assert command("sample", asked, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in lines(out)) == list(range(8))


def test_tokens_only_where_there_is_no_tokenizer(scripted, prompts, out):
    settings = {**variables(scripted.base_url, KEY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(out.parent)}
    command = Commands(settings)
    nameless = ["--model", "nobody/knows-this", "--max-tokens", "4"]
    assert command("sample", prompts({"prompt": [1]}), "-o", out, *nameless).returncode == 0
    assert "text" not in lines(out)[0]["sequences"][0]
    out.unlink()
    refused = command("sample", prompts({"prompt": "a"}), "-o", out, *nameless)
    assert refused.returncode == 1
    assert "--tokenizer" in refused.stderr
    given = command("sample", prompts({"prompt": "a"}), "-o", out, *nameless, "--tokenizer", "tinkex/tiny")
    assert given.returncode == 0, given.stderr
    assert lines(out)[0]["sequences"][0]["text"] == "hi"


@pytest.mark.parametrize(
    "kind", ["device", "endless device", "fifo", "folder", "stdout", "no folder", "below a file"]
)
def test_an_output_that_is_not_a_plain_file_is_refused_before_sampling(
    kind, command, server, prompts, tmp_path
):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    output = {
        "device": "/dev/null",
        "endless device": "/dev/full",
        "fifo": tmp_path / "fifo",
        "folder": tmp_path / "folder",
        "stdout": "/dev/stdout",
        "no folder": tmp_path / "none" / "replies.jsonl",
        "below a file": tmp_path / "prompts.jsonl" / "replies.jsonl",
    }[kind]
    before = server.stats()["requests"]
    done = Commands(command.args[0])("sample", prompts({"prompt": "a"}), "-o", output, *MODEL)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(output) in done.stderr
    assert "-o - for standard output" in done.stderr
    after = server.stats()["requests"]
    assert after.get("/api/v1/create_session") == before.get("/api/v1/create_session"), "nothing was sent"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "folder", "prompts.jsonl"]


def test_standard_output_redirected_to_a_file_is_refused_by_its_device_name(command, prompts, tmp_path):
    with (tmp_path / "replies.jsonl").open("w") as file:
        done = Commands(command.args[0])(
            "sample", prompts({"prompt": "a"}), "-o", "/dev/stdout", *MODEL, stdout=file
        )
    assert done.returncode == 1
    assert "is a standard stream of this command" in done.stderr
    assert not (tmp_path / "replies.jsonl").read_bytes()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_without_write_permission_is_refused(command, prompts, out):
    out.touch(0o400)
    done = command("sample", prompts({"prompt": "a"}), "-o", out, *MODEL)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


def test_dash_writes_replies_to_standard_output(command, prompts, tmp_path):
    asked = prompts({"prompt": "a", "id": "x"}, {"prompt": "b"})
    done = Commands(command.args[0])("sample", asked, "-o", "-", *MODEL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["index"] for line in done.stdout.splitlines()) == [0, 1]
    assert "2 of 2 prompts have replies." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_write_error_on_standard_output_ends_the_run(scripted, prompts):
    asked = prompts(*({"prompt": f"{place}"} for place in range(50)))
    with Path("/dev/full").open("w") as full:
        done = Commands(variables(scripted.base_url))(
            "sample", asked, "-o", "-", *MODEL, "--concurrency", "2", stdout=full
        )
    assert done.returncode == 1
    assert "cannot write standard output: No space left on device" in done.stderr
    assert len(scripted.sent("asample")) < 10


def test_a_closed_pipe_ends_the_run(scripted, prompts):
    asked = prompts(*({"prompt": f"{place}"} for place in range(50)))
    command = Commands(variables(scripted.base_url))
    with command.start("sample", asked, "-o", "-", *MODEL, "--concurrency", "2") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert "cannot write standard output: Broken pipe" in errors
    assert "Traceback" not in errors
