"""``tinkex-sync sample "PROMPT"``: one completion on standard output."""

import io
import json
from functools import partial

import pytest
from command_runs import in_process, variables

MODEL = ["--model", "tinkex/tiny", "--max-tokens", "6", "--seed", "3", "--temperature", "0"]


@pytest.fixture
def command(server):
    return partial(in_process, variables(server.base_url))


def test_the_text_of_one_completion_is_printed_and_nothing_else(command):
    done = command("sample", "Once upon", *MODEL)
    assert done.returncode == 0, done.stderr
    again = command("sample", "Once upon", *MODEL, "-f", "json")
    found = json.loads(again.stdout)
    assert found["prompt"] == "Once upon" and len(found["texts"]) == 1
    assert len(done.stdout.splitlines()) >= 1
    assert "---" not in done.stdout


def test_several_completions_are_separated(command):
    done = command("sample", "Once upon", *MODEL, "-n", "3")
    assert done.stdout.split("\n").count("---") == 2


def test_a_prompt_is_read_from_standard_input(command, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon"))
    done = command("sample", "-", *MODEL, "-f", "json")
    assert json.loads(done.stdout)["prompt"] == "Once upon"


def test_a_file_without_an_output_is_refused_before_anything_is_sent(command, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    done = command("sample", prompts, *MODEL)
    assert done.returncode == 1
    assert f"{prompts} is a file: give the output with -o" in done.stderr


def test_an_empty_prompt_is_refused(command):
    done = command("sample", "", *MODEL)
    assert done.returncode == 1 and "the prompt is empty" in done.stderr


@pytest.mark.parametrize("concurrency", ["1", "3", "50"])
def test_ordered_output_has_the_order_of_the_prompts(command, tmp_path, concurrency):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    lines = [
        json.dumps({"prompt": "x" * (1 + 37 * number % 50), "max_tokens": 1 + 7 * number % 20}) for number in range(40)
    ]
    prompts.write_text("\n".join(lines))
    done = command("sample", prompts, "-o", out, *MODEL[:2], "--ordered", "--concurrency", concurrency)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == list(range(40))


def test_an_output_that_would_not_be_compressed_is_refused_before_sampling(command, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl.gz"
    prompts.write_text('{"prompt": "a"}\n')
    done = command("sample", prompts, "-o", out, *MODEL)
    assert done.returncode == 1 and "would not be compressed" in done.stderr and not out.exists()
