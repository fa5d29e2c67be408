"""kill -9 at any moment: after going on, every prompt has one reply, and no line is broken."""

import json
import os
import random
import signal
import threading

import pytest
from command_runs import Commands, in_process, variables
from scripted_server import Answer, ScriptedServer

PROMPTS = 400
MODEL = ["--model", "tinkex/tiny", "--max-tokens", "4", "--concurrency", "8"]


@pytest.fixture
def scripted():
    """A reply holds the tokens of its prompt, so that a mix-up shows."""
    with ScriptedServer() as server:
        prompts = {}

        def take(request):
            made = f"r{len(prompts)}-{request.body['seq_id']}"
            prompts[made] = request.body["prompt"]["chunks"][0]["tokens"]
            return Answer(body={"request_id": made})

        def give(request):
            tokens = prompts[request.body["request_id"]]
            return Answer(body={"sequences": [{"tokens": tokens, "stop_reason": "length"}]})

        server.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
        server.defaults["asample"], server.defaults["retrieve_future"] = take, give
        yield server


def whole_lines(path):
    content = path.read_bytes() if path.exists() else b""
    return content.count(b"\n")


def test_kill_9_and_go_on(scripted, tmp_path):
    asked, out = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"prompt {place}"}) + "\n" for place in range(PROMPTS)))
    command = Commands(variables(scripted.base_url))
    chance, nap = random.Random(4), threading.Event()
    kept = set()
    for _ in range(4):
        before = whole_lines(out)
        target = before + chance.randrange(0, 90)
        running = command.start("sample", asked, "-o", out, *MODEL)
        while whole_lines(out) < target and running.poll() is None:
            nap.wait(0.002)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        assert running.returncode == -signal.SIGKILL
        found = [
            json.loads(line) for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
        ]
        now = {line["index"] for line in found}
        assert len(now) == len(found) >= target
        assert kept <= now, "what was answered stays answered"
        kept = now
        # What a system that went down with us may leave of the last line.
        with out.open("ab") as file:
            file.write(b'{"index":3,"sequ'[: chance.randrange(0, 16)])
    assert 0 < len(kept) < PROMPTS
    sent = len(scripted.sent("asample"))
    done = in_process(command.environment, "sample", asked, "-o", out, *MODEL, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new"] == PROMPTS - len(kept) == len(scripted.sent("asample")) - sent
    replies = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(reply["index"] for reply in replies) == list(range(PROMPTS))
    for reply in replies:
        assert reply["sequences"][0]["text"] == f"prompt {reply['index']}"


def test_killed_while_failed_prompts_are_taken_out(scripted, tmp_path):
    """The leftover of a rewriting that was cut off harms nothing."""
    asked, out = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    asked.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    scripted.script("retrieve_future", Answer(body={"error": "no", "category": "user"}))
    environment = variables(scripted.base_url)
    assert in_process(environment, "sample", asked, "-o", out, *MODEL).returncode == 1
    (tmp_path / "replies.jsonl.new").write_bytes(b'{"index":1,"sequ')
    assert in_process(environment, "sample", asked, "-o", out, *MODEL).returncode == 0
    assert sorted(json.loads(line)["index"] for line in out.read_text().splitlines()) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "prompts.jsonl",
        "replies.jsonl",
        "replies.jsonl.run",
    ]
