"""The record of a run: in a file, in the server's metadata, and compared with new options."""

import json
from pathlib import Path

import pytest

from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.train.run_file import TrainOptions, TrainRun, option_differences, parse_loss_config

OPTIONS = TrainOptions(model="m", learning_rate=0.1, lr_decay="linear", batch=3)


def test_a_written_record_is_read_unchanged(tmp_path):
    run = TrainRun(OPTIONS, data="story.txt", sha256="abc", steps=9, run_ids=["r1"])
    run.set_total(4)
    run.add_checkpoint(5, "tinker://r1/weights/step-000005")
    run.write(tmp_path / "run.json")
    assert TrainRun.read(tmp_path / "run.json") == run
    assert run.run_id == "r1"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("path", ["tinker://r7/weights/step-000012", "tinker://r7/step-000012"])
def test_metadata_restores_the_options_and_the_step(path):
    run = TrainRun(OPTIONS, sha256="abc", epochs=2)
    restored = TrainRun.from_metadata(path, run.to_metadata())
    assert restored.options == OPTIONS
    assert (restored.sha256, restored.steps, restored.epochs) == ("abc", None, 2)
    assert (restored.step, restored.checkpoint, restored.run_ids) == (12, path, ["r7"])


@pytest.mark.parametrize(
    ("path", "metadata", "reason"),
    [
        ("tinker://r/weights/other", TrainRun(OPTIONS).to_metadata(), "was not saved by this command"),
        ("tinker://r/weights/step-000001", None, "was not saved by this command"),
        ("tinker://r/weights/step-000001", {"tinkex_sync_train": "{"}, "cannot be read"),
        ("tinker://r/weights/step-000001", {"tinkex_sync_train": '{"options": {"x": 1}}'}, "cannot be read"),
    ],
)
def test_other_checkpoints_cannot_be_resumed(path, metadata, reason):
    with pytest.raises(CommandError, match=reason):
        TrainRun.from_metadata(path, metadata)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not a run file: "),
        ("[]", "is not a run file of this version"),
        (json.dumps({"format": 2}), "is not a run file of this version"),
        (json.dumps({"format": 1}), "is not a run file: "),
        (json.dumps({"format": 1, "options": {"color": "red"}}), "is not a run file: "),
    ],
)
def test_other_files_are_not_run_files(content, reason, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(CommandError, match=reason):
        TrainRun.read(path)


@pytest.mark.parametrize("path", ["/dev/zero", "none.json"])
def test_a_run_file_that_cannot_be_read_names_the_option(path):
    with pytest.raises(CommandError, match="cannot read") as refused:
        TrainRun.read(Path(path))
    assert "--resume" in refused.value.details[0]


def test_a_run_file_that_cannot_be_written_names_the_option(tmp_path):
    with pytest.raises(CommandError, match="cannot write the run file") as refused:
        TrainRun(OPTIONS).write(tmp_path / "none" / "run.json")
    assert "--run-file" in refused.value.details[0]


def test_the_length_is_that_of_the_options_or_one_epoch():
    for steps, epochs, total in ((None, None, 4), (None, 3, 12), (7, None, 7)):
        run = TrainRun(OPTIONS, steps=steps, epochs=epochs)
        run.set_total(4)
        assert run.total == total
    run.step = 8
    with pytest.raises(CommandError, match="has already taken 8 steps, which is more than 7"):
        run.set_total(4)


@pytest.mark.parametrize(
    ("decay", "rates"), [("none", [0.1, 0.1, 0.1]), ("linear", [0.1, 0.05, 0.0]), ("cosine", [0.1, 0.05, 0.0])]
)
def test_the_learning_rate_falls_to_zero(decay, rates):
    options = TrainOptions(model="m", learning_rate=0.1, lr_decay=decay)
    assert [options.learning_rate_of(step, 10) for step in (0, 5, 10)] == pytest.approx(rates)


def test_differences_are_named_by_option():
    assert option_differences(OPTIONS, {"batch": 3, "lr_decay": "none"}) == [
        "--lr-decay: none is given, the run has linear"
    ]


def test_settings_of_the_loss_are_names_and_numbers():
    assert parse_loss_config(None) is None
    assert parse_loss_config("beta=0.1, clip_low_threshold=0.8") == {"beta": 0.1, "clip_low_threshold": 0.8}
    for wrong in ("beta", "beta=", "=1", "beta=x", "a b=1", "beta=nan", "beta=1,,"):
        with pytest.raises(ValueError, match="is not NAME=NUMBER"):
            parse_loss_config(wrong)
