"""``tinkex-sync sample``: responses, refusals, failed prompts, and continuation."""

import contextlib
import gzip
import json
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from command_runs import KEY, Commands, in_process, peak_memory, variables
from scripted_server import Answer, ScriptedServer

#: Options of every test.
MODEL = ["--model", "tinkex/tiny", "--max-tokens", "4"]


@pytest.fixture
def command(server):
    """Run a command against the embedded server, in this process."""
    return partial(in_process, variables(server.base_url))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path):
    """Write prompts to a file, one on each line."""

    def write(*contents, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in contents))
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "responses.jsonl"


def test_every_prompt_gets_one_response(command, prompts, out):
    prompt_file = prompts({"prompt": "hello", "id": "a"}, "\n", {"prompt": [1, 2, 3], "id": 7}, {"prompt": "ü"})
    done = command("sample", prompt_file, "-o", out, *MODEL, "-n", "2", "--logprobs", "--seed", "5", "-f", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {name: result[name] for name in ("prompts", "answered", "failed", "new")} == {
        "prompts": 3,
        "answered": 3,
        "failed": 0,
        "new": 3,
    }
    responses = sorted(read_lines(out), key=lambda response: response["index"])
    assert [(response["index"], response.get("id")) for response in responses] == [(0, "a"), (1, 7), (2, None)]
    for response in responses:
        assert len(response["sequences"]) == 2
        for sequence in response["sequences"]:
            assert len(sequence["tokens"]) == len(sequence["logprobs"]) <= 4
            assert sequence["stop_reason"] in ("length", "stop")
            assert isinstance(sequence["text"], str)
    again = command("sample", prompt_file, "-o", out, *MODEL, "-n", "2", "--logprobs", "--seed", "5")
    assert again.returncode == 0
    assert "3 of 3 prompts already have responses" in again.stderr
    assert sorted(read_lines(out), key=lambda response: response["index"]) == responses


def test_saved_weights_are_sampled_by_their_path(command, prompts, out, saved):
    prompt_file = prompts({"prompt": "hello"})
    done = command("sample", prompt_file, "-o", out, "-m", saved.sampler, "--max-tokens", "2", "--stop", "zz")
    assert done.returncode == 0, done.stderr
    assert len(read_lines(out)[0]["sequences"][0]["tokens"]) <= 2


def test_malformed_lines_are_named_before_anything_is_sent(command, server, prompts, out):
    prompt_file = prompts({"prompt": "good"}, "\n", "[1]\n", {"prompt": "a", "min_p": 1})
    before = server.stats()["requests"]
    done = command("sample", prompt_file, "-o", out, *MODEL)
    assert (done.returncode, done.stdout) == (1, "")
    first, second, end = done.stderr.splitlines()
    assert first == f"Error: {prompt_file}:3: must be an object, not [1]"
    assert second.startswith(f'{prompt_file}:4: the key "min_p" is not known here')
    assert end.startswith("Nothing was sent.")
    after = server.stats()["requests"]
    assert {name: after.get(name) for name in ("/api/v1/create_session", "/api/v1/asample")} == {
        name: before.get(name) for name in ("/api/v1/create_session", "/api/v1/asample")
    }
    assert not out.exists()


def test_chats_are_sampled_as_train_encodes_them(command, prompts, out):
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    text = {"prompt": "user: Hi\nassistant:", "id": "text"}
    done = command("sample", prompts(chat, text), "-o", out, *MODEL, "--seed", "3")
    assert done.returncode == 0, done.stderr
    one, other = read_lines(out)
    assert one["sequences"] == other["sequences"]


def test_a_chat_that_cannot_be_encoded_is_refused_before_sampling(command, server, prompts, out):
    prompt_file = prompts({"prompt": "a"}, {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]})
    before = server.stats()["requests"].get("/api/v1/asample")
    done = command("sample", prompt_file, "-o", out, *MODEL)
    assert done.returncode == 1
    assert f'{prompt_file}:2: "messages"[0]["name"] needs a chat template' in done.stderr
    assert server.stats()["requests"].get("/api/v1/asample") == before


def test_a_stop_text_is_in_the_tokens_and_not_in_the_text(command, prompts, out):
    prompt_file = prompts(*({"prompt": f"hi {number}"} for number in range(8)))
    stops = [option for mark in "aeiou stnr" for option in ("--stop", mark)]
    done = command("sample", prompt_file, "-o", out, *MODEL[:2], "--max-tokens", "200", "--seed", "5", *stops)
    assert done.returncode == 0, done.stderr
    sequences = [response["sequences"][0] for response in read_lines(out)]
    stopped = [one for one in sequences if one["tokens"] and one["tokens"][-1] in list(b"aeiou stnr")]
    assert stopped
    assert not any(set(one["text"]) & set("aeiou stnr") for one in stopped)


def test_standard_input_is_sampled_and_continued(command, prompts, out, tmp_path):
    run = Commands(command.args[0])
    given = '{"prompt": "a"}\n{"prompt": "b"}\n'
    to_stdout = run("sample", "-", "-o", "-", *MODEL, given=given, cwd=tmp_path)
    assert to_stdout.returncode == 0, to_stdout.stderr
    assert sorted(json.loads(line)["index"] for line in to_stdout.stdout.splitlines()) == [0, 1]
    to_file = run("sample", "-", "-o", out, *MODEL, given=given)
    assert (to_file.returncode, len(read_lines(out))) == (0, 2), to_file.stderr
    compressed = tmp_path / "prompts.jsonl.gz"
    compressed.write_bytes(gzip.compress(given.encode()))
    again = command("sample", compressed, "-o", out, *MODEL)
    assert "2 of 2 prompts already have responses" in again.stderr


def test_unusable_files_are_refused(command, prompts, out, tmp_path):
    assert "no such" in command("sample", tmp_path / "none", "-o", out, *MODEL).stderr.lower()
    assert "contains no prompt" in command("sample", prompts("\n"), "-o", out, *MODEL).stderr
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe4"}\n')
    assert "latin.jsonl:1: not UTF-8" in command("sample", tmp_path / "latin.jsonl", "-o", out, *MODEL).stderr
    prompt_file = prompts({"prompt": "a"})
    assert "is the file of prompts" in command("sample", prompt_file, "-o", prompt_file, *MODEL).stderr
    missing = command("sample", prompt_file, "-o", tmp_path / "no" / "folder.jsonl", *MODEL)
    assert missing.returncode == 1
    assert "cannot write" in missing.stderr
    assert command("sample", prompt_file, "-o", out, *MODEL, "--top-k", "0").returncode == 2
    assert not out.exists()


def test_an_output_of_other_prompts_or_settings_is_refused(command, prompts, out, tmp_path):
    prompt_file = prompts({"prompt": "a"})
    assert command("sample", prompt_file, "-o", out, *MODEL).returncode == 0
    before = out.read_bytes()
    changed = command("sample", prompts({"prompt": "b"}), "-o", out, *MODEL)
    assert changed.returncode == 1
    assert "contains responses to other prompts" in changed.stderr
    prompt_file = prompts({"prompt": "a"})
    other = command("sample", prompt_file, "-o", out, *MODEL, "--temperature", "0.5")
    assert other.returncode == 1
    assert "temperature was 1.0, is 0.5" in other.stderr
    strange = tmp_path / "strange.jsonl"
    strange.write_text("mine\n")
    assert "exists, and no record" in command("sample", prompt_file, "-o", strange, *MODEL).stderr
    assert strange.read_text() == "mine\n"
    out.write_bytes(b"rubbish\n" + before)
    assert "line 1: not a response" in command("sample", prompt_file, "-o", out, *MODEL).stderr
    out.write_bytes(before + before)
    assert "line 2: prompt 0 already has a response" in command("sample", prompt_file, "-o", out, *MODEL).stderr
    assert out.read_bytes() == before + before


@pytest.fixture
def scripted():
    """A server that returns two tokens for each sample, without a delay."""
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
        server.defaults["asample"] = lambda request: Answer(body={"request_id": f"r{request.body['seq_id']}"})
        server.defaults["retrieve_future"] = response
        yield server


def response(request):
    return Answer(body={"sequences": [{"tokens": [104, 105], "stop_reason": "length"}]})


def test_failed_prompts_are_reported_and_sampled_again(scripted, prompts, out):
    command = partial(in_process, variables(scripted.base_url))
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(20)))
    failure = Answer(body={"error": "too odd", "category": "user"})
    scripted.script("retrieve_future", *[failure] * 3)
    done = command("sample", prompt_file, "-o", out, *MODEL, "-f", "json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert (result["answered"], result["failed"]) == (17, 3)
    assert "Run the same command again" in done.stderr
    failed = [line for line in read_lines(out) if "error" in line]
    assert [line["error"]["type"] for line in failed] == ["RequestFailedError"] * 3
    assert "too odd" in failed[0]["error"]["message"]
    sent = len(scripted.sent("asample"))
    again = command("sample", prompt_file, "-o", out, *MODEL)
    assert again.returncode == 0, again.stderr
    assert len(scripted.sent("asample")) == sent + 3
    assert sorted(line["index"] for line in read_lines(out)) == list(range(20))
    assert all(line["sequences"][0]["text"] == "hi" for line in read_lines(out))


def test_on_error_stop_ends_at_the_first_failure(scripted, prompts, out):
    scripted.script("retrieve_future", Answer(body={"error": "too odd", "category": "user"}))
    prompt_file = prompts({"prompt": "a"}, {"prompt": "b"})
    command = partial(in_process, variables(scripted.base_url))
    done = command("sample", prompt_file, "-o", out, *MODEL, "--on-error", "stop", "--concurrency", "1")
    assert done.returncode == 1
    assert "prompt 0 failed" in done.stderr
    assert len(scripted.sent("asample")) == 1
    assert command("sample", prompt_file, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in read_lines(out)) == [0, 1]


def test_an_error_that_does_not_depend_on_the_prompt_ends_the_run(scripted, prompts, out):
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(50)))
    scripted.script("asample", *[scripted.defaults["asample"]] * 10, *[Answer(401, {"detail": "key"})] * 40)
    command = partial(in_process, variables(scripted.base_url))
    done = command("sample", prompt_file, "-o", out, *MODEL, "--concurrency", "5")
    assert done.returncode == 1
    assert "Authentication failed" in done.stderr
    assert "Run the same command again to continue" in done.stderr
    assert all("error" not in line for line in read_lines(out))
    assert len(scripted.sent("asample")) < 30
    scripted.clear()
    assert command("sample", prompt_file, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in read_lines(out)) == list(range(50))


def test_the_queue_state_is_shown(scripted, prompts, out):
    paused = {"type": "try_again", "request_id": "r", "queue_state": "paused_capacity", "queue_state_reason": "full"}
    scripted.script("retrieve_future", Answer(body=paused))
    done = partial(in_process, variables(scripted.base_url))("sample", prompts({"prompt": "a"}), "-o", out, *MODEL)
    assert done.returncode == 0
    assert "full" in done.stderr
    assert "1 of 1 prompts" in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_bar_is_shown_on_a_terminal(scripted, prompts, out):
    ours, theirs = os.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):
            while content := os.read(ours, 4096):
                shown.append(content)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    paused = {"type": "try_again", "request_id": "r", "queue_state": "paused_capacity", "queue_state_reason": "full"}
    scripted.script("retrieve_future", Answer(body=paused))
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(5)))
    command = Commands(variables(scripted.base_url))
    with command.start("sample", prompt_file, "-o", out, *MODEL, stderr=theirs, env={"COLUMNS": "120"}) as running:
        assert running.wait(timeout=60) == 0
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = b"".join(shown).decode()
    assert "5/5" in text
    assert "full" in text


def test_a_tokenizer_of_another_model_is_reported(scripted, prompts, out):
    wild = Answer(body={"sequences": [{"tokens": [151000], "stop_reason": "length"}]})
    scripted.script("retrieve_future", wild)
    done = in_process(variables(scripted.base_url), "sample", prompts({"prompt": "a"}), "-o", out, *MODEL)
    assert done.returncode == 1
    assert "--tokenizer" in done.stderr


def test_a_second_process_is_refused_and_ctrl_c_keeps_the_responses_so_far(scripted, prompts, out):
    held = threading.Event()

    def hold(request):
        return Answer(body=None, drop=True, hold=lambda: held.wait(30))

    scripted.script("retrieve_future", *[response] * 3)
    scripted.defaults["retrieve_future"] = hold
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(8)))
    command = Commands(variables(scripted.base_url))
    try:
        first = command.start("sample", prompt_file, "-o", out, *MODEL)
        while not out.exists() or len(out.read_bytes().splitlines()) < 3:
            assert first.poll() is None, first.communicate()
            held.wait(0.02)
        second = in_process(command.environment, "sample", prompt_file, "-o", out, *MODEL)
        assert second.returncode == 1
        assert "another process is writing" in second.stderr
        os.kill(first.pid, signal.SIGINT)
        stdout, errors = first.communicate(timeout=20)
    finally:
        held.set()
    assert (first.returncode, stdout) == (130, "")
    assert "3 of 8 prompts have responses" in errors
    assert "Run the same command again to continue" in errors
    assert "Interrupted." in errors
    scripted.defaults["retrieve_future"] = response
    assert command("sample", prompt_file, "-o", out, *MODEL).returncode == 0
    assert sorted(line["index"] for line in read_lines(out)) == list(range(8))


def test_without_a_tokenizer_responses_contain_token_ids_only(scripted, prompts, out):
    settings = {**variables(scripted.base_url, KEY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(out.parent)}
    command = Commands(settings)
    nameless = ["--model", "unknown/model", "--max-tokens", "4"]
    assert command("sample", prompts({"prompt": [1]}), "-o", out, *nameless).returncode == 0
    assert "text" not in read_lines(out)[0]["sequences"][0]
    out.unlink()
    refused = command("sample", prompts({"prompt": "a"}), "-o", out, *nameless)
    assert refused.returncode == 1
    assert "--tokenizer" in refused.stderr
    given = command("sample", prompts({"prompt": "a"}), "-o", out, *nameless, "--tokenizer", "tinkex/tiny")
    assert given.returncode == 0, given.stderr
    assert read_lines(out)[0]["sequences"][0]["text"] == "hi"


@pytest.mark.parametrize("kind", ["device", "endless device", "fifo", "folder", "stdout", "no folder", "below a file"])
def test_an_output_that_is_not_a_plain_file_is_refused_before_sampling(kind, command, server, prompts, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    output = {
        "device": "/dev/null",
        "endless device": "/dev/full",
        "fifo": tmp_path / "fifo",
        "folder": tmp_path / "folder",
        "stdout": "/dev/stdout",
        "no folder": tmp_path / "none" / "responses.jsonl",
        "below a file": tmp_path / "prompts.jsonl" / "responses.jsonl",
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
    with (tmp_path / "responses.jsonl").open("w") as file:
        done = Commands(command.args[0])("sample", prompts({"prompt": "a"}), "-o", "/dev/stdout", *MODEL, stdout=file)
    assert done.returncode == 1
    assert "is a standard stream of this command" in done.stderr
    assert not (tmp_path / "responses.jsonl").read_bytes()


def test_dash_writes_responses_to_standard_output(command, prompts, tmp_path):
    prompt_file = prompts({"prompt": "a", "id": "x"}, {"prompt": "b"})
    done = Commands(command.args[0])("sample", prompt_file, "-o", "-", *MODEL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["index"] for line in done.stdout.splitlines()) == [0, 1]
    assert "2 of 2 prompts have responses." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_write_error_on_standard_output_ends_the_run(scripted, prompts):
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(50)))
    with Path("/dev/full").open("w") as full:
        done = Commands(variables(scripted.base_url))(
            "sample", prompt_file, "-o", "-", *MODEL, "--concurrency", "2", stdout=full
        )
    assert done.returncode == 1
    assert "cannot write standard output: No space left on device" in done.stderr
    assert len(scripted.sent("asample")) < 10


def test_a_closed_pipe_ends_the_run(scripted, prompts):
    prompt_file = prompts(*({"prompt": f"{index}"} for index in range(50)))
    command = Commands(variables(scripted.base_url))
    with command.start("sample", prompt_file, "-o", "-", *MODEL, "--concurrency", "2") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert "cannot write standard output: Broken pipe" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_the_memory_does_not_grow_with_the_file_of_prompts(server, tmp_path):
    peaks = []
    for size in (2**14, 2**17):
        with (tmp_path / "prompts.jsonl").open("w") as file:
            for number in range(200):
                file.write(json.dumps({"prompt": [65, number % 256], "source": "x" * size}) + "\n")
        options = ["--model", "tinkex/tiny", "--max-tokens", 1, "--ignore-keys", "source", "--concurrency", 8]
        output = ["-o", f"{size}.jsonl"]
        peaks.append(peak_memory(variables(server.base_url), tmp_path, "sample", "prompts.jsonl", *options, *output))
        assert len(read_lines(tmp_path / f"{size}.jsonl")) == 200
    assert peaks[1] - peaks[0] < 8, f"{peaks} MB for 3 and 25 MB of prompts"
