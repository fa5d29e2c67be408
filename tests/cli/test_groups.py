"""Groups and commands: ``--format`` in every position, and help for a group without a command."""

import json

import click
import pytest

from tinkex_sync.cli.groups import FORMAT_HELP
from tinkex_sync.cli.root import root


@pytest.mark.parametrize("arguments", [[], ["run"], ["checkpoint"], ["session"]])
def test_a_group_without_a_command_prints_its_help_to_standard_error(arguments, command):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    "arguments", [["--format", "json", "plugins"], ["plugins", "--format", "json"], ["plugins", "-f", "json"]]
)
def test_format_is_accepted_before_and_after_the_command(arguments, command):
    assert json.loads(command(*arguments).stdout)["plugins"]


def test_format_is_accepted_between_group_and_command(command, saved):
    done = command("run", "-f", "json", "info", saved.run_id)
    assert json.loads(done.stdout)["training_run_id"] == saved.run_id


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["sample", "-h"], ["run", "list", "-h"]])
def test_format_is_listed_in_every_help(arguments, command):
    assert "--format" in command(*arguments).stdout


def leaves(group=root, path=()):
    """Yield the words of each command, and the command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


#: Arguments with which each command succeeds. RUN, SAVED and SAMPLER stand for what the server has.
CALLS = {
    "chat": ["--model", "tinkex/tiny", "--max-tokens", "2"],
    "checkpoint delete": ["SAVED", "--yes"],
    "checkpoint download": ["SAMPLER", "--output", "."],
    "checkpoint info": ["SAVED"],
    "checkpoint list": [],
    "checkpoint publish": ["SAVED"],
    "checkpoint unpublish": ["SAVED"],
    "completion": ["bash"],
    "demo": ["story.txt"],
    "doctor": ["--model", "tinkex/tiny"],
    "plugins": [],
    "run info": ["RUN"],
    "run list": [],
    "sample": ["Once", "--model", "tinkex/tiny", "--max-tokens", "2"],
    "session info": ["SESSION"],
    "session list": [],
    "train": ["story.txt", "--model", "tinkex/tiny", "--steps", "1", "--rank", "2"],
    "version": [],
}
#: Commands that other tests run with ``--format json``.
ELSEWHERE = {"checkpoint push-hf", "serve"}


@pytest.mark.parametrize("words", CALLS)
def test_with_json_standard_output_of_each_command_is_one_document(words, command, save, tmp_path):
    (tmp_path / "story.txt").write_text("the lamp was lit at dusk " * 5)
    saved = save("one")
    names = {"RUN": saved.run_id, "SAVED": saved.training[0], "SAMPLER": saved.sampler, "SESSION": saved.session_id}
    arguments = [names.get(argument, argument) for argument in CALLS[words]]
    done = command("--format", "json", *words.split(), *arguments, given="Hello\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict) and document


def test_every_command_is_run_with_json():
    assert {words for words, _ in leaves()} == {*CALLS, *ELSEWHERE}


def test_an_error_leaves_standard_output_empty(command):
    for arguments in (["run", "info", "none"], ["train", "none.txt", "--model", "m"], ["sample"], ["checkpoint"]):
        done = command(*arguments, "--format", "json")
        assert (done.returncode in (1, 2), done.stdout) == (True, ""), arguments


def test_the_same_sentence_is_in_the_help_of_every_command_and_group():
    for words, found in [
        ("", root),
        *leaves(),
        *((name, root.get_command(click.Context(root), name)) for name in ("run", "session", "checkpoint")),
    ]:
        text = found.get_help(click.Context(found, info_name=words))
        assert FORMAT_HELP in " ".join(text.split()), words
