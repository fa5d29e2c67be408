"""``tinkex-sync session`` against the embedded server."""

import json


def test_sessions_are_listed_and_shown(command, saved):
    listed = json.loads(command("session", "list", "-f", "json", "--limit", "0").stdout)["sessions"]
    assert saved.session_id in listed
    assert len(json.loads(command("session", "list", "-f", "json", "--limit", "2").stdout)["sessions"]) == 2
    one = json.loads(command("session", "info", saved.session_id, "-f", "json").stdout)
    assert one["session_id"] == saved.session_id
    assert one["training_run_ids"] == [saved.run_id]
    assert saved.run_id in command("session", "info", saved.session_id).stdout
