"""The top group: versions, commands of plugins, exit statuses, lazy imports, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_runs import KEY, Commands, variables

import tinkex_sync
from tinkex_sync.cli.root import root

PLUGIN = """
import click
from tinkex_sync import hookimpl

@hookimpl
def tinkex_register_commands(cli):
    @cli.command()
    def greet():
        click.echo("hello from a plugin")
    @cli.commands["run"].command()
    def count():
        click.echo("three")
"""
CONFLICTING_PLUGIN = """
import click
from tinkex_sync import hookimpl

@hookimpl
def tinkex_register_commands(cli):
    cli.add_command(click.Command("version", callback=lambda: click.echo("0.0.0")))
"""


def run_script(script):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=variables(""), capture_output=True, text=True, check=False
    )


def test_the_version_is_printed_by_option_and_by_command(command):
    for arguments in (["--version"], ["version"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (0, f"tinkex-sync {tinkex_sync.__version__}\n")


@pytest.mark.parametrize("arguments", [["-f", "json", "version"], ["version", "--format", "json"]])
def test_the_version_can_be_json(arguments, command):
    assert json.loads(command(*arguments).stdout) == {"version": tinkex_sync.__version__}


def test_help_of_a_command_loads_no_heavy_packages():
    heavy = ["numpy", "flask", "autograd", "rich", "torch", "tokenizers", "transformers"]
    done = run_script(
        "import sys\n"
        "from tinkex_sync.cli.root import root\n"
        "try: root.main(['run', 'list', '--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"assert not [name for name in {heavy} if name in sys.modules]\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_command_without_a_client_imports_no_client():
    done = run_script(
        "import sys\n"
        "from tinkex_sync.cli.root import root\n"
        "try: root.main(['version'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "loaded = {name for name in ('requests', 'dataclasses_json', 'tenacity', 'rich') if name in sys.modules}\n"
        "assert not loaded, loaded\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_help_on_a_pipe_does_not_depend_on_columns(columns, command):
    expected = command("sample", "--help", env={"COLUMNS": "120"}).stdout
    assert command("sample", "--help", env={"COLUMNS": columns}).stdout == expected
    assert max(map(len, expected.splitlines())) > 90


@pytest.mark.parametrize("arguments", [["frob"], ["run", "frob"], ["-f", "xml", "version"], ["run", "info"]])
def test_wrong_usage_exits_with_2_and_prints_no_result(arguments, command):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error:" in done.stderr


@pytest.fixture
def plugin(tmp_path, server):
    """Return commands of a process in which a plugin is installed."""

    def install(text: str) -> Commands:
        (tmp_path / "cli_plugin.py").write_text(text)
        environment = variables(server.base_url)
        environment["PYTHONPATH"] += f":{tmp_path}"
        return Commands({**environment, "TINKEX_SYNC_PLUGINS": "cli_plugin"})

    return install


def test_a_plugin_adds_commands(plugin):
    command = plugin(PLUGIN)
    assert command("greet").stdout == "hello from a plugin\n"
    assert command("greet", "--help").returncode == 0
    assert "  greet" in command("--help").stdout


def test_a_plugin_cannot_replace_a_command(plugin):
    command = plugin(CONFLICTING_PLUGIN)
    done = command("--help")
    assert done.returncode == 0
    assert "there is already a command 'version'" in done.stderr
    assert command("version").stdout == f"tinkex-sync {tinkex_sync.__version__}\n"


def test_a_traceback_is_logged_only_with_debug_messages(plugin):
    command = plugin("raise RuntimeError('broken plugin')")
    [line] = command("plugins").stderr.splitlines()
    assert line.startswith("WARNING: ")
    assert line.count("RuntimeError: broken plugin") == 1
    assert "Traceback" in command("plugins", env={"TINKER_LOG": "debug"}).stderr


def test_base_url_option_replaces_the_environment_variable(server):
    done = Commands(variables("http://127.0.0.1:9", KEY))("--base-url", server.base_url, "run", "list")
    assert done.returncode == 0


def test_an_unexpected_error_is_printed_with_a_traceback(monkeypatch):
    def explode() -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(root.get_command(None, "completion"), "callback", lambda shell: explode())
    done = CliRunner().invoke(root, ["completion", "bash"])
    assert done.exit_code == 1
    assert "Unexpected error occurred: ZeroDivisionError: boom" in done.output
    assert Path(__file__).name in done.output
