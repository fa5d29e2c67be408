"""``tinkex-sync checkpoint`` against the embedded server."""

import contextlib
import json
import os
import pty

import pytest
from command_runs import in_process, variables
from scripted_server import Answer


def test_checkpoints_are_listed_and_shown(command, saved):
    listed = json.loads(command("checkpoint", "list", "--run-id", saved.run_id, "-f", "json").stdout)
    assert listed["run_id"] == saved.run_id
    paths = [row["tinker_path"] for row in listed["checkpoints"]]
    assert sorted(paths) == sorted([*saved.training, saved.sampler])
    everyone = json.loads(command("checkpoint", "list", "--limit", "0", "-f", "json").stdout)
    assert set(paths) <= {row["tinker_path"] for row in everyone["checkpoints"]}
    one = json.loads(command("checkpoint", "info", saved.sampler, "-f", "json").stdout)
    assert one["checkpoint_type"] == "sampler"
    missing = command("checkpoint", "info", f"tinker://{saved.run_id}/weights/none")
    assert (missing.returncode, missing.stdout) == (1, "")


def test_info_refuses_a_path_without_a_kind_as_the_official_command_does(command, saved):
    done = command("checkpoint", "info", f"tinker://{saved.run_id}/first")
    assert done.returncode == 1
    assert "Invalid checkpoint path" in done.stderr


@pytest.mark.parametrize(
    ("verb", "method", "sent"),
    [
        ("publish", "POST", "training_runs/r/checkpoints/x/publish"),
        ("unpublish", "DELETE", "training_runs/r/checkpoints/x/publish"),
        ("delete", "DELETE", "training_runs/r/checkpoints/x"),
    ],
)
def test_paths_without_a_kind_are_sent_as_they_are(verb, method, sent, scripted):
    scripted.defaults[sent] = Answer(204, None)
    options = ["--yes"] if verb == "delete" else []
    done = in_process(variables(scripted.base_url), "checkpoint", verb, "tinker://r/x", *options)
    assert done.returncode == 0, done.stderr
    assert [request.method for request in scripted.sent(sent)] == [method]


def test_a_checkpoint_is_published_and_made_private_again(command, saved):
    def is_public():
        found = command("checkpoint", "info", saved.training[0], "-f", "json")
        return json.loads(found.stdout)["public"]

    assert command("checkpoint", "publish", saved.training[0]).returncode == 0
    assert is_public()
    assert command("checkpoint", "unpublish", saved.training[0]).returncode == 0
    assert not is_public()


def test_delete_asks_first_and_reports_how_many_were_deleted(command, save):
    paths = save("one", "two", "three").training
    refused = command("checkpoint", "delete", *paths[:2], given="n\n")
    assert refused.returncode == 0
    assert refused.stdout == ""
    assert "Deletion cancelled" in refused.stderr
    assert paths[0] in refused.stderr
    assert command("checkpoint", "delete", paths[0]).returncode == 1, "the end of standard input is not a yes"
    agreed = command("checkpoint", "delete", *paths[:2], given="y\n")
    assert agreed.returncode == 0
    assert "Deleted 2 of 2" in agreed.stderr
    stopped = command("checkpoint", "delete", "-y", paths[2], paths[0])
    assert stopped.returncode == 1
    assert "Deleted 1 of 2" in stopped.stderr
    assert "Resource not found" in stopped.stderr


@pytest.mark.parametrize(
    "path",
    [
        "run-1",
        "tinker://r",
        "tinker://r/other/x",
        "tinker://../weights/x",
        "tinker://r/weights/..",
        "tinker:///weights/x",
    ],
)
@pytest.mark.parametrize("verb", ["info", "publish", "delete", "download"])
def test_a_malformed_path_is_refused_before_anything_is_sent(verb, path, command, server):
    before = server.stats()["requests"].get("/api/v1/create_session")
    done = command("checkpoint", verb, path)
    assert (done.returncode, done.stdout) == (1, "")
    assert path in done.stderr
    assert server.stats()["requests"].get("/api/v1/create_session") == before


def test_a_download_is_extracted_into_a_folder_named_after_the_checkpoint(command, saved, tmp_path):
    done = command("checkpoint", "download", saved.training[0], "-f", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    folder = tmp_path / f"{saved.run_id}_weights_first"
    assert result["destination"] == str(folder)
    assert result["file_size_bytes"] > 1000
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "arrays.npz",
        "checkpoint.json",
    ]
    assert json.loads((folder / "checkpoint.json").read_text())["run_id"] == saved.run_id
    again = command("checkpoint", "download", saved.training[0], cwd=tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    (folder / "mine.txt").write_text("old")
    forced = command("checkpoint", "download", saved.training[0], "--force", "-o", tmp_path)
    assert forced.returncode == 0
    assert not (folder / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "no temporary file is left"


def test_a_failed_download_keeps_the_earlier_one(command, save, tmp_path):
    path = save("gone").training[0]
    assert command("checkpoint", "download", path, "-o", tmp_path).returncode == 0
    assert command("checkpoint", "delete", "-y", path).returncode == 0
    done = command("checkpoint", "download", path, "-o", tmp_path, "--force")
    assert done.returncode == 1
    [folder] = tmp_path.iterdir()
    assert (folder / "checkpoint.json").exists()


@pytest.mark.parametrize("columns", ["20", "80", "120"])
def test_paths_on_a_pipe_are_complete_at_any_columns(columns, command, saved):
    done = command("checkpoint", "list", env={"COLUMNS": columns, "LINES": "24"})
    assert done.returncode == 0, done.stderr
    for path in (*saved.training, saved.sampler):
        assert path in done.stdout


def test_paths_on_a_terminal_are_folded(command, saved):
    ours, theirs = pty.openpty()
    with command.start("checkpoint", "list", stdout=theirs, env={"COLUMNS": "80", "TERM": "xterm"}) as process:
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
