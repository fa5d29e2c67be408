"""The file of responses: kill -9 at any moment, incomplete lines, write errors, and the standard-output form."""

import json
import os
import random
import resource
import signal
import threading

import pytest
from command_runs import Commands, in_process, variables
from scripted_server import Answer, ScriptedServer

from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.sample.responses import ResponseFile
from tinkex_sync.concurrency.clock import Clock

PROMPTS = 400
MODEL = ["--model", "tinkex/tiny", "--max-tokens", "4", "--concurrency", "8"]


@pytest.fixture
def scripted():
    """A server that returns the tokens of the prompt, so that swapped responses are noticed."""
    with ScriptedServer() as server:
        prompts = {}

        def accept(request):
            request_id = f"r{len(prompts)}-{request.body['seq_id']}"
            prompts[request_id] = request.body["prompt"]["chunks"][0]["tokens"]
            return Answer(body={"request_id": request_id})

        def respond(request):
            tokens = prompts[request.body["request_id"]]
            return Answer(body={"sequences": [{"tokens": tokens, "stop_reason": "length"}]})

        server.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
        server.defaults["asample"], server.defaults["retrieve_future"] = accept, respond
        yield server


def count_lines(path):
    content = path.read_bytes() if path.exists() else b""
    return content.count(b"\n")


def test_after_kill_9_every_prompt_has_one_response(scripted, tmp_path):
    prompt_file, out = tmp_path / "prompts.jsonl", tmp_path / "responses.jsonl"
    prompt_file.write_text("".join(json.dumps({"prompt": f"prompt {index}"}) + "\n" for index in range(PROMPTS)))
    command = Commands(variables(scripted.base_url))
    generator, pause = random.Random(4), threading.Event()
    kept = set()
    for _ in range(4):
        before = count_lines(out)
        target = before + generator.randrange(0, 90)
        running = command.start("sample", prompt_file, "-o", out, *MODEL)
        while count_lines(out) < target and running.poll() is None:
            pause.wait(0.002)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        assert running.returncode == -signal.SIGKILL
        found = [json.loads(line) for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        now = {line["index"] for line in found}
        assert len(now) == len(found) >= target
        assert kept <= now, "a response was lost"
        kept = now
        # A power failure may leave a part of the last line.
        with out.open("ab") as file:
            file.write(b'{"index":3,"sequ'[: generator.randrange(0, 16)])
    assert 0 < len(kept) < PROMPTS
    sent = len(scripted.sent("asample"))
    done = in_process(command.environment, "sample", prompt_file, "-o", out, *MODEL, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new"] == PROMPTS - len(kept) == len(scripted.sent("asample")) - sent
    responses = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(response["index"] for response in responses) == list(range(PROMPTS))
    for response in responses:
        assert response["sequences"][0]["text"] == f"prompt {response['index']}"


def test_an_interrupted_removal_of_failed_prompts_is_repeated(scripted, tmp_path):
    prompt_file, out = tmp_path / "prompts.jsonl", tmp_path / "responses.jsonl"
    prompt_file.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    scripted.script("retrieve_future", Answer(body={"error": "no", "category": "user"}))
    environment = variables(scripted.base_url)
    assert in_process(environment, "sample", prompt_file, "-o", out, *MODEL).returncode == 1
    (tmp_path / "responses.jsonl.new").write_bytes(b'{"index":1,"sequ')
    assert in_process(environment, "sample", prompt_file, "-o", out, *MODEL).returncode == 0
    assert sorted(json.loads(line)["index"] for line in out.read_text().splitlines()) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "prompts.jsonl",
        "responses.jsonl",
        "responses.jsonl.run",
    ]


SETTINGS = {"prompts_sha256": "abc", "prompts": 3, "seed": 1}


def response_to(index):
    return {"index": index, "sequences": [{"tokens": [1] * 50}]}


def test_a_file_is_continued_where_an_incomplete_line_was_written(tmp_path):
    path = tmp_path / "responses.jsonl"
    responses = ResponseFile(path, SETTINGS, Clock())
    responses.write(response_to(2))
    responses.close()
    with path.open("ab") as file:
        file.write(b'{"index":1,"seq')
    responses = ResponseFile(path, SETTINGS, Clock())
    assert [responses.has(index) for index in range(3)] == [False, False, True]
    responses.write(response_to(0))
    responses.close()
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [2, 0]


def test_a_second_response_to_a_prompt_is_refused(tmp_path):
    responses = ResponseFile(tmp_path / "responses.jsonl", SETTINGS, Clock())
    responses.write(response_to(0))
    with pytest.raises(CommandError, match="prompt 0 already has a response"):
        responses.write(response_to(0))
    responses.close()
    assert not responses.is_writable


def test_changed_settings_are_named(tmp_path):
    responses = ResponseFile(tmp_path / "responses.jsonl", SETTINGS, Clock())
    responses.write(response_to(0))
    responses.close()
    with pytest.raises(CommandError, match="seed was 1, is 2"):
        ResponseFile(tmp_path / "responses.jsonl", {**SETTINGS, "seed": 2}, Clock())


def test_a_write_error_ends_the_run_and_the_next_run_continues(scripted, tmp_path):
    prompt_file, out = tmp_path / "prompts.jsonl", tmp_path / "responses.jsonl"
    prompt_file.write_text("".join(json.dumps({"prompt": f"prompt {index}"}) + "\n" for index in range(PROMPTS)))
    command = Commands({**variables(scripted.base_url), "PYTHONDONTWRITEBYTECODE": "1"})
    limit = 10_000

    def limit_file_size():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = command("sample", prompt_file, "-o", out, *MODEL, preexec_fn=limit_file_size)
    assert done.returncode == 1
    assert f"cannot write {out}: File too large" in done.stderr
    assert len(scripted.sent("asample")) < PROMPTS
    assert command("sample", prompt_file, "-o", out, *MODEL).returncode == 0
    responses = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(response["index"] for response in responses) == list(range(PROMPTS))
