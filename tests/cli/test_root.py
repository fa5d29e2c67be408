"""What every command shares: help, exit statuses, --format anywhere, plugins' commands, missing packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_runs import KEY, ROOT, Commands, variables

import tinkex_sync
from tinkex_sync.cli.root import root

PLUGIN = """
import click
from tinkex_sync import hookimpl

@hookimpl
def tinkex_register_commands(cli):
    @cli.command()
    def hail():
        click.echo("hail from a plugin")
    @cli.commands["run"].command()
    def count():
        click.echo("three")
"""
GREEDY = """
import click
from tinkex_sync import hookimpl

@hookimpl
def tinkex_register_commands(cli):
    cli.add_command(click.Command("version", callback=lambda: click.echo("0.0.0")))
"""


def test_version(command):
    for arguments in (["--version"], ["version"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (0, f"tinkex-sync {tinkex_sync.__version__}\n")


def test_commands_of_ours_load_no_numbers_and_no_server():
    heavy = ["numpy", "flask", "autograd", "rich", "torch", "tokenizers", "transformers"]
    script = f"""
import sys
from tinkex_sync.cli.root import root
try:
    root.main(["run", "list", "--help"])
except SystemExit as done:
    assert done.code == 0
assert not [name for name in {heavy} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=variables(""), stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_without_the_extra_it_says_what_to_install(missing):
    script = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing} else find(name, *rest)
from tinkex_sync.cli import main
main(["version"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables(""), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f'Error: the command line needs {" and ".join(missing)}: pip install "tinkex-sync[cli]"\n'
    )


@pytest.mark.parametrize("arguments", [[], ["run"], ["checkpoint"], ["session"]])
def test_a_group_alone_prints_its_help_to_stderr(arguments, command):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize("arguments", [["frob"], ["run", "frob"], ["-f", "xml", "version"], ["run", "info"]])
def test_wrong_usage(arguments, command):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "json", "plugins"],
        ["plugins", "--format", "json"],
        ["plugins", "-f", "json"],
        ["plugins", "--json"],
    ],
)
def test_format_before_and_after_the_command(arguments, command):
    listed = json.loads(command(*arguments).stdout)["plugins"]
    assert [row["name"] for row in listed if row["origin"] == "builtin"] == ["queue_log"]


def test_format_between_group_and_command(command, saved):
    done = command("run", "-f", "json", "info", saved.run_id)
    assert json.loads(done.stdout)["training_run_id"] == saved.run_id


@pytest.fixture
def plugin(tmp_path, server):
    def install(text: str) -> Commands:
        (tmp_path / "cli_plugin.py").write_text(text)
        environment = variables(server.base_url)
        environment["PYTHONPATH"] += f":{tmp_path}"
        return Commands({**environment, "TINKEX_SYNC_PLUGINS": "cli_plugin"})

    return install


def test_a_plugin_adds_commands(plugin):
    command = plugin(PLUGIN)
    assert command("hail").stdout == "hail from a plugin\n"
    assert command("hail", "--help").returncode == 0
    assert "  hail" in command("--help").stdout


def test_a_plugin_cannot_take_the_name_of_a_command(plugin):
    command = plugin(GREEDY)
    done = command("--help")
    assert done.returncode == 0
    assert "there is a command 'version' already" in done.stderr
    assert command("version").stdout == f"tinkex-sync {tinkex_sync.__version__}\n"


def test_plugins_says_what_is_wrong_with_one(plugin):
    done = plugin("raise RuntimeError('not today')")("plugins", "--json")
    [row] = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "cli_plugin"]
    assert row["status"] == "failed"
    assert "not today" in row["error"]
    table = plugin(PLUGIN)("plugins").stdout
    assert "tinkex_register_commands" in table
    assert "active" in table


def test_completion(command):
    for shell, mark in (("bash", "_TINKEX_SYNC_COMPLETE=bash_complete"), ("zsh", "#compdef tinkex-sync")):
        done = command(env={"_TINKEX_SYNC_COMPLETE": f"{shell}_source"})
        assert done.returncode == 0
        assert mark in done.stdout
    words = {
        "_TINKEX_SYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": "tinkex-sync checkpoint d",
        "COMP_CWORD": "2",
    }
    assert command(env=words).stdout.split() == ["plain,delete", "plain,download"]


def test_errors_end_with_a_title_and_a_remedy(command, server):
    done = command("run", "info", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Resource not found\nDetails: Error code: 404")
    wrong_key = Commands(variables(server.base_url, "wrong"))("run", "list")
    assert wrong_key.returncode == 1
    assert wrong_key.stderr.startswith("Error: Authentication failed\n")
    assert "TINKER_API_KEY" in wrong_key.stderr
    no_url = Commands(variables("ftp://nowhere"))("run", "list")
    assert no_url.returncode == 1
    assert no_url.stderr.startswith("Error: Configuration error: base_url='ftp://nowhere'")
    no_key = Commands({k: v for k, v in variables(server.base_url).items() if k != "TINKER_API_KEY"})(
        "run", "list"
    )
    assert no_key.stderr.startswith("Error: Configuration error: no API key")


def test_base_url_option(server):
    done = Commands(variables("http://127.0.0.1:9", KEY))("--base-url", server.base_url, "run", "list")
    assert done.returncode == 0


def test_an_unexpected_error_shows_where(monkeypatch):
    def explode() -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(root.commands["version"], "callback", explode)
    done = CliRunner().invoke(root, ["version"])
    assert done.exit_code == 1
    assert "Unexpected error occurred: ZeroDivisionError: boom" in done.output
    assert Path(__file__).name in done.output


def test_the_project_is_found_from_its_checkout():
    assert Path(tinkex_sync.__file__).resolve().is_relative_to(ROOT)
