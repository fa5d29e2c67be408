"""``tinkex-sync plugins``: the list, the problems, and the exit status."""

import json

import pytest
from command_runs import Commands, variables

HEALTHY = """
from tinkex_sync import hookimpl

@hookimpl
def tinkex_register_commands(cli):
    pass
"""


@pytest.fixture
def plugins(tmp_path):
    """Run ``plugins`` where a plugin with the given text is installed."""

    def run(text, *arguments):
        (tmp_path / "listed_plugin.py").write_text(text)
        environment = variables("")
        environment["PYTHONPATH"] += f":{tmp_path}"
        return Commands({**environment, "TINKEX_SYNC_PLUGINS": "listed_plugin"})("plugins", *arguments)

    return run


def test_builtin_plugins_are_listed(command):
    listed = json.loads(command("plugins", "--json").stdout)["plugins"]
    assert [row["name"] for row in listed if row["origin"] == "builtin"] == ["queue_log"]


def test_a_healthy_plugin_is_listed_with_its_hooks(plugins):
    done = plugins(HEALTHY)
    assert done.returncode == 0
    assert "tinkex_register_commands" in done.stdout
    assert "active" in done.stdout


def test_a_failed_plugin_is_listed_with_its_error_and_gives_exit_status_1(plugins):
    done = plugins("raise RuntimeError('broken plugin')", "--json")
    [row] = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "listed_plugin"]
    assert row["status"] == "failed"
    assert "broken plugin" in row["error"]
    assert done.returncode == 1


def test_the_table_on_a_pipe_is_readable_and_complete(plugins):
    reason = "a long reason " * 30
    done = plugins(f"raise RuntimeError({reason!r})")
    table = [line for line in done.stdout.splitlines() if line.startswith(("│", "┃", "├", "└", "┏"))]
    assert max(map(len, table)) <= 120
    assert reason.strip() in done.stdout
    assert "tinkex_queue_state_changed" in done.stdout
