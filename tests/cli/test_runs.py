"""``tinkex-sync run`` against the embedded server."""

import json


def test_runs_are_listed_and_shown(command, saved):
    done = command("run", "list", "--limit", "0", "-f", "json")
    assert done.returncode == 0
    listed = json.loads(done.stdout)["runs"]
    [run] = [run for run in listed if run["training_run_id"] == saved.run_id]
    assert json.loads(command("-f", "json", "run", "info", saved.run_id).stdout) == {
        **run,
        "last_request_time": run["last_request_time"],
    }
    assert run["user_metadata"] == {"purpose": "test"}
    table = command("run", "info", saved.run_id).stdout
    assert f"Training Run: {saved.run_id}" in table
    for text in ("Yes (Rank 4)", "Active", "Last Update", saved.training[-1], "purpose"):
        assert text in table
    assert "1 training run" in command("run", "list", "--limit", "1").stdout
