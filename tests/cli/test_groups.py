"""Groups and commands: ``--format`` in every position, and help for a group without a command."""

import json

import pytest


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
