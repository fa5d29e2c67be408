"""``tinkex-sync demo``: it trains and samples, and its figures are those of the run."""

import json

import pytest
from command_runs import next_command

LINE = "the lamp, the stairs, the sea; "


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "line.txt"
    path.write_text(LINE * 4)
    return path


def test_a_text_is_learned_and_continued_and_the_next_command_succeeds(command, server, text, tmp_path):
    before = server.stats()["requests"].get("/api/v1/create_session")
    done = command("demo", text, "--format", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["last_loss"] < result["first_loss"] / 5
    assert result["samples"] == 200
    assert 0 < result["steps"] <= 100, "a slow machine finishes fewer steps in 45 s"
    assert result["samples_like_the_text"] > 100
    assert LINE[-4:] + LINE[:12] in result["prompt"] + result["sample_after"]
    assert result["sample_after"] != result["sample_before"]
    for line in (
        "Starting the embedded server",
        "Before training it continues like this:",
        "  step    1  loss per token ",
        f"First loss per token: {result['first_loss']:.3f}",
        f"Last loss per token:  {result['last_loss']:.3f} (",
        "Now it continues like this:",
        f"{result['samples_like_the_text']} of 200 samples continue exactly as the text does.",
    ):
        assert line in done.stderr
    assert server.stats()["requests"].get("/api/v1/create_session") == before, "the demo has its own server"
    tried = command(*next_command(done.stderr), cwd=tmp_path)
    assert tried.returncode == 0, tried.stderr
    assert "Trained: " in tried.stdout
    assert f"{text.name}.run.json" in tried.stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"too short", "has only 9 bytes of text\nGive at least 96."),
        (b"", "is empty\nGive a file that contains text."),
        (b"\xff" * 200, "is not a text file: "),
    ],
)
def test_a_file_that_cannot_be_learned_is_refused(command, tmp_path, content, reason):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    done = command("demo", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: {path} {reason}" in done.stderr
    assert "Error: cannot read" in command("demo", tmp_path / "none.txt").stderr
