"""``tinkex-sync chat``: a conversation with a model."""

import io
import json
from functools import partial

import pytest
from command_runs import in_process, variables
from scripted_server import Answer, ScriptedServer

MODEL = ["--model", "tinkex/tiny", "--max-tokens", "6", "--seed", "3", "--temperature", "0"]


@pytest.fixture
def command(server, monkeypatch):
    def run(text, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return partial(in_process, variables(server.base_url))("chat", *MODEL, *arguments)

    return run


def test_each_line_gets_one_response_that_knows_the_lines_before(monkeypatch):
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "s"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler"})
        server.defaults["asample"] = Answer(body={"request_id": "r"})
        reply = {"stop_reason": "stop", "tokens": list(b" fine")}
        server.defaults["retrieve_future"] = Answer(body={"type": "sample", "sequences": [reply]})
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nand you?\n"))
        done = in_process(variables(server.base_url), "chat", *MODEL, "-f", "json")
        prompts = [request.body["prompt"]["chunks"][0]["tokens"] for request in server.sent("asample")]
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["messages"]
    assert [(one["role"], one["content"]) for one in found] == [
        *(("user", "hello"), ("assistant", "fine")),
        *(("user", "and you?"), ("assistant", "fine")),
    ]
    first, second = (bytes(token for token in tokens if token < 256) for tokens in prompts)
    assert first == b"user: hello\nassistant:"
    assert second.startswith(b"user: hello\nassistant: fine") and second.endswith(b"user: and you?\nassistant:")


def test_responses_are_all_that_is_printed_on_a_pipe(command):
    done = command("hello\n")
    assert done.returncode == 0
    expected = json.loads(command("hello\n", "-f", "json").stdout)["messages"][1]["content"]
    assert done.stdout.strip().startswith(expected.strip()[:1])
    assert ">" not in done.stderr


def test_a_system_message_comes_first(command):
    found = json.loads(command("hello\n", "--system", "Be brief.", "-f", "json").stdout)["messages"]
    assert found[0] == {"role": "system", "content": "Be brief."}


def test_the_record_of_a_conversation_can_be_trained_on(command, tmp_path, server):
    record = tmp_path / "chat.jsonl"
    record.write_text(json.dumps(json.loads(command("hello\n", "-f", "json").stdout)) + "\n")
    options = ("--model", "tinkex/tiny", "--rank", "2", "--epochs", "1", "--run-file", tmp_path / "run.json")
    done = in_process(variables(server.base_url), "train", record, *options)
    assert done.returncode == 0, done.stderr


def test_an_empty_conversation_samples_nothing(command):
    assert command("", "-f", "json").stdout.split() == ["{", '"messages":', "[]", "}"]
