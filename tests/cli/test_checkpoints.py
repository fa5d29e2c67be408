"""Runs, checkpoints and sessions, looked at and changed on a real server."""

import contextlib
import json
import os
import pty

import pytest


def test_runs(command, saved):
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
    for text in ("Yes (Rank 4)", "Active", "just now", saved.training[-1], "purpose"):
        assert text in table
    assert "1 training run" in command("run", "list", "--limit", "1").stdout


def test_checkpoints(command, saved):
    listed = json.loads(command("checkpoint", "list", "--run-id", saved.run_id, "-f", "json").stdout)
    assert listed["run_id"] == saved.run_id
    paths = [row["tinker_path"] for row in listed["checkpoints"]]
    assert sorted(paths) == sorted([*saved.training, saved.sampler])
    everyone = json.loads(command("checkpoint", "list", "--limit", "0", "-f", "json").stdout)
    assert set(paths) <= {row["tinker_path"] for row in everyone["checkpoints"]}
    one = json.loads(command("checkpoint", "info", saved.sampler, "-f", "json").stdout)
    assert one["checkpoint_type"] == "sampler"
    assert saved.sampler in command("checkpoint", "list").stdout, "a pipe has no width to keep to"
    missing = command("checkpoint", "info", f"tinker://{saved.run_id}/weights/none")
    assert (missing.returncode, missing.stdout) == (1, "")


def test_publish_and_unpublish(command, saved):
    def public():
        found = command("checkpoint", "info", saved.training[0], "-f", "json")
        return json.loads(found.stdout)["public"]

    assert command("checkpoint", "publish", saved.training[0]).returncode == 0
    assert public()
    assert command("checkpoint", "unpublish", saved.training[0]).returncode == 0
    assert not public()


def test_delete_asks_first_and_says_how_far_it_came(command, save):
    paths = save("one", "two", "three").training
    refused = command("checkpoint", "delete", *paths[:2], given="n\n")
    assert refused.returncode == 0
    assert refused.stdout == ""
    assert "Deletion cancelled" in refused.stderr
    assert paths[0] in refused.stderr
    assert command("checkpoint", "delete", paths[0]).returncode == 1, "no answer is not a yes"
    agreed = command("checkpoint", "delete", *paths[:2], given="y\n")
    assert agreed.returncode == 0
    assert "Deleted 2 of 2" in agreed.stderr
    stopped = command("checkpoint", "delete", "-y", paths[2], paths[0])
    assert stopped.returncode == 1
    assert "Deleted 1 of 2" in stopped.stderr
    assert "Resource not found" in stopped.stderr


@pytest.mark.parametrize(
    "path", ["run-1", "tinker://r/c", "tinker://../weights/x", "tinker://r/weights/..", "tinker:///weights/x"]
)
@pytest.mark.parametrize("verb", ["info", "publish", "delete", "download"])
def test_a_path_that_is_none_is_refused_before_anything_is_sent(verb, path, command, server):
    before = server.stats()["requests"].get("/api/v1/create_session")
    done = command("checkpoint", verb, path)
    assert (done.returncode, done.stdout) == (1, "")
    assert path in done.stderr
    assert server.stats()["requests"].get("/api/v1/create_session") == before


def test_download(command, saved, tmp_path):
    done = command("checkpoint", "download", saved.training[0], "-f", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    folder = tmp_path / f"{saved.run_id}_weights_first"
    assert told["destination"] == str(folder)
    assert told["file_size_bytes"] > 1000
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "checkpoint.json"]
    assert json.loads((folder / "checkpoint.json").read_text())["run_id"] == saved.run_id
    again = command("checkpoint", "download", saved.training[0], cwd=tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    (folder / "mine.txt").write_text("old")
    forced = command("checkpoint", "download", saved.training[0], "--force", "-o", tmp_path)
    assert forced.returncode == 0
    assert not (folder / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing temporary stays"


def test_a_failed_download_leaves_what_is_there(command, save, tmp_path):
    path = save("gone").training[0]
    assert command("checkpoint", "download", path, "-o", tmp_path).returncode == 0
    assert command("checkpoint", "delete", "-y", path).returncode == 0
    done = command("checkpoint", "download", path, "-o", tmp_path, "--force")
    assert done.returncode == 1
    [folder] = tmp_path.iterdir()
    assert (folder / "checkpoint.json").exists()


def test_sessions(command, saved):
    listed = json.loads(command("session", "list", "-f", "json", "--limit", "0").stdout)["sessions"]
    assert saved.session_id in listed
    assert len(json.loads(command("session", "list", "-f", "json", "--limit", "2").stdout)["sessions"]) == 2
    one = json.loads(command("session", "info", saved.session_id, "-f", "json").stdout)
    assert one["session_id"] == saved.session_id
    assert one["training_run_ids"] == [saved.run_id]
    assert saved.run_id in command("session", "info", saved.session_id).stdout


@pytest.mark.parametrize("columns", ["20", "80", "120"])
def test_paths_on_a_pipe_are_complete_at_any_columns(columns, command, saved):
    done = command("checkpoint", "list", env={"COLUMNS": columns, "LINES": "24"})
    assert done.returncode == 0, done.stderr
    for path in (*saved.training, saved.sampler):
        assert path in done.stdout


def test_paths_on_a_terminal_are_folded(command, saved):
    ours, theirs = pty.openpty()
    with command.start(
        "checkpoint", "list", stdout=theirs, env={"COLUMNS": "80", "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # Linux reports the end of a pseudo-terminal as an error
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait(60) == 0
    os.close(ours)
    text = shown.decode()
    assert saved.sampler not in text
    assert text.count("┃") > 4
