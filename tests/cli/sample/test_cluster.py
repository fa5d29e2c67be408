"""``tinkex-sync sample --engine``: what it passes on, and what it refuses. The plugin's tests run real clusters."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
from command_runs import in_process, variables

from tinkex_sync import SamplingClient
from tinkex_sync.errors import TinkexError

MODEL = ["--model", "tinkex/tiny", "--max-tokens", "4"]


@dataclass
class Report:
    rows: int
    rows_failed: int


class JobError(TinkexError):
    pass


@pytest.fixture
def command(server):
    """Run a command against the embedded server, in this process."""
    return partial(in_process, variables(server.base_url))


@pytest.fixture
def calls(monkeypatch):
    """Replace the distribution, which this environment need not have, by one that records the calls."""
    made = []

    def sample_dataset(dataset, sampler, params, **arguments):
        made.append((dataset, sampler, params, arguments))
        if "refused" in dataset:
            raise JobError("the job is refused")
        arguments["progress"](SimpleNamespace(rows_done=3, rows=9, elapsed=12.0))
        return Report(9, 1 if "failing" in dataset else 0)

    module = SimpleNamespace(sample_dataset=sample_dataset, JobError=JobError)
    monkeypatch.setitem(sys.modules, "tinkex_sync_scale", module)
    return made


def test_options_reach_the_engine(command, calls, tmp_path):
    options = [
        "--engine",
        "ray",
        "--workers",
        "3",
        "-n",
        "2",
        "--concurrency",
        "64",
        "--on-error",
        "stop",
        "-f",
        "json",
    ]
    done = command("sample", "big.parquet", "-o", tmp_path / "out", *MODEL, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rows": 9, "rows_failed": 0}
    assert "3 of 9 rows after 12 s" in done.stderr
    [(dataset, sampler, params, arguments)] = calls
    assert dataset == "big.parquet"
    assert isinstance(sampler, SamplingClient)
    assert params.max_tokens == 4
    assert arguments.pop("progress")
    assert arguments == {
        "output": tmp_path / "out",
        "engine": "ray",
        "workers": 3,
        "max_in_flight": 64,
        "on_error": "raise",
        "timeout": None,
        "model": "tinkex/tiny",
        "tokenizer": None,
        "num_samples": 2,
        "logprobs": False,
    }


def test_failed_rows_and_refused_jobs_have_status_1(command, calls, tmp_path):
    done = command("sample", "failing.parquet", "-o", tmp_path / "out", *MODEL, "--engine", "dask")
    assert (done.returncode, "1 rows failed" in done.stderr) == (1, True)
    done = command("sample", "refused.parquet", "-o", tmp_path / "out", *MODEL, "--engine", "dask")
    assert (done.returncode, "Error: the job is refused" in done.stderr) == (1, True)


def test_missing_distribution_is_named(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tinkex_sync_scale", None)
    done = command("sample", "big.parquet", "-o", tmp_path / "out", *MODEL, "--engine", "spark")
    assert done.returncode == 1
    assert 'pip install "tinkex-sync-scale[spark]"' in done.stderr


def test_output_must_be_a_folder(command, calls, tmp_path):
    (tmp_path / "file").touch()
    for where in (["-o", "-"], [], ["-o", tmp_path / "file"]):
        done = command("sample", "big.parquet", *where, *MODEL, "--engine", "dask")
        assert (done.returncode, "Give a folder with -o." in done.stderr) == (1, True)
    assert not calls
