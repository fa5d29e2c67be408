"""``tinkex-sync demo``: it trains, it samples, and what it tells is what happened."""

import json

import pytest

LINE = "the lamp, the stairs, the sea; "


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "line.txt"
    path.write_text(LINE * 4)
    return path


def test_it_learns_a_text(command, server, text):
    before = server.stats()["requests"].get("/api/v1/create_session")
    done = command("demo", text, "--format", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["last_loss"] < told["first_loss"] / 5
    assert told["samples"] == 200
    assert 0 < told["steps"] <= 100, "fewer where that takes 45 s"
    assert told["samples_like_the_text"] > 100
    assert LINE[-4:] + LINE[:12] in told["prompt"] + told["sample_after"]
    assert told["sample_after"] != told["sample_before"]
    for words in (
        "Starting the embedded server",
        "Before training it goes on like this:",
        "  step    1  loss per token ",
        f"First loss per token: {told['first_loss']:.3f}",
        f"Last loss per token:  {told['last_loss']:.3f} (",
        "Now it goes on like this:",
        f"{told['samples_like_the_text']} of 200 samples go on exactly as the text does.",
    ):
        assert words in done.stderr
    assert server.stats()["requests"].get("/api/v1/create_session") == before, "it has a server of its own"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"too short", "has only 9 bytes of text\nGive at least 96."),
        (b"", "is empty\nGive a file with some text in it."),
        (b"\xff" * 200, "is not a text file: "),
    ],
)
def test_what_it_cannot_learn_from(command, tmp_path, content, reason):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    done = command("demo", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: {path} {reason}" in done.stderr
    assert "Error: cannot read" in command("demo", tmp_path / "none.txt").stderr
