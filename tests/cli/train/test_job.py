"""One training job on the embedded server: what is printed at its start and its end, and the run file."""

import json

import pytest

from tinkex_sync import errors
from tinkex_sync.cli.output import CommandError, Output
from tinkex_sync.cli.train.job import TrainJob
from tinkex_sync.cli.train.run_file import TrainOptions, TrainRun
from tinkex_sync.local import Faults


@pytest.fixture
def job(server, tmp_path, monkeypatch, read):
    """Build a job of two steps, and return it with its run and its output."""
    monkeypatch.setenv("TINKER_API_KEY", "cli-key")
    (tmp_path / "story.txt").write_text("the lamp was lit at dusk " * 4)

    def build(**changes):
        output = Output()
        output.format, output.base_url = "json", server.base_url
        options = TrainOptions(model="tinkex/tiny", rank=4, context=32, batch=2, **changes)
        run = TrainRun(options, steps=2)
        data = read(tmp_path / "story.txt", "auto", options.loss)
        return TrainJob(output, run, tmp_path / "run.json", data), run, output

    return build


def test_a_job_trains_saves_and_prints_its_result(job, tmp_path, capsys):
    train_job, run, _ = job()
    assert train_job.run(None, 1) is False
    assert run.complete
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["step"], result["steps"], result["interrupted"]) == (2, 2, False)
    assert result["sampler_checkpoint"].endswith("step-000002-sampler")
    assert len(result["losses"]) == 2
    assert f"Run {run.run_id}: 4 examples, 2 steps of 2" in printed.err
    assert TrainRun.read(tmp_path / "run.json") == run


def test_a_complete_job_only_prints_its_result(job, capsys, server):
    train_job, run, _ = job()
    train_job.run(None, 1)
    capsys.readouterr()
    before = server.stats()["requests"].get("/api/v1/create_session")
    assert train_job.run(None, 1) is False
    assert "This run is complete" in capsys.readouterr().err
    assert server.stats()["requests"].get("/api/v1/create_session") == before


def test_lines_that_are_too_long_are_refused_before_connecting_with_a_tokenizer(job, server):
    train_job, run, _ = job(tokenizer="tinkex/tiny")
    before = server.stats()["requests"].get("/api/v1/create_session")
    run.step = 3
    with pytest.raises(CommandError, match="has already taken 3 steps"):
        train_job.run(None, 1)
    assert server.stats()["requests"].get("/api/v1/create_session") == before


def test_the_command_that_continues_a_run_on_standard_input_gives_it_again(job, server, capsys):
    server.set_faults(Faults(fail_first={"forward_backward": [400]}))
    try:
        for data, words in (("", "train - --resume"), ("/data/story.txt", "train --resume")):
            train_job, run, _ = job()
            run.data = data
            with pytest.raises(errors.BadRequestError):
                train_job.run(None, 1)
            assert f" {words} " in capsys.readouterr().err
            server.set_faults(Faults(fail_first={"forward_backward": [400]}))
    finally:
        server.set_faults(Faults())
