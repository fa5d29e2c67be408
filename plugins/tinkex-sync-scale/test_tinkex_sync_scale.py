"""Plans, manifests, the shared limit, and the work of one task."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from tinkex_sync_scale import JobError, sample_dataset  # noqa: E402
from tinkex_sync_scale.engines import engine_name_of  # noqa: E402
from tinkex_sync_scale.files import find_inputs, output_path, plan_partitions, read_rows  # noqa: E402
from tinkex_sync_scale.job import Job, Partition  # noqa: E402
from tinkex_sync_scale.limit import SIGNAL, SharedLimit  # noqa: E402
from tinkex_sync_scale.manifest import check_manifest, make_manifest  # noqa: E402
from tinkex_sync_scale.worker import sample_partition  # noqa: E402

from tinkex_sync import SamplingClient, ServiceClient  # noqa: E402
from tinkex_sync.clients.base import close_rebuilt_sessions  # noqa: E402
from tinkex_sync.errors import TinkexError  # noqa: E402
from tinkex_sync.local import Faults, LocalServer  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running
    close_rebuilt_sessions()


@pytest.fixture
def sampler(server: LocalServer) -> Iterator[SamplingClient]:
    server.set_faults(Faults())
    with ServiceClient(base_url=server.base_url, api_key="local") as service:
        yield service.create_sampling_client(base_model="tinkex/tiny")


# Inputs


def write(folder: Path, rows: List[Dict[str, Any]], suffix: str, name: str = "rows") -> Path:
    path = folder / f"{name}.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))  # blank lines, and no line feed at the end
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("size", [1, 5, 7, 20, 23, 100])
def test_partitions_contain_each_row_once(suffix: str, size: int, tmp_path: Path) -> None:
    rows = [{"prompt": [number, 1], "id": number, "more": "ü"} for number in range(23)]
    inputs, partitions = plan_partitions([write(tmp_path, rows, suffix)], size)
    assert [one.rows for one in inputs] == [23]
    found = [row for one in partitions for row in read_rows(one, ("prompt", "id", "absent"))[0]]
    assert found == [{"prompt": row["prompt"], "id": row["id"]} for row in rows]
    assert max(one.rows for one in partitions) == min(size, 23)


def test_files_of_a_folder_have_their_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        write(tmp_path, [{"prompt": [number]}], "jsonl", f"part.{number}")
    write(tmp_path, [{"prompt": [0]}], "jsonl", "_hidden")
    assert [path.name for path in find_inputs(tmp_path)] == ["part.1.jsonl", "part.9.jsonl", "part.10.jsonl"]


def test_unusable_inputs_are_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path, [{"prompt": [1]}], "jsonl"), write(tmp_path, [{"prompt": [1]}], "parquet")
    with pytest.raises(JobError, match="there is no input file"):
        find_inputs(tmp_path / "absent.jsonl")
    with pytest.raises(JobError, match="not both"):
        find_inputs([one, two])
    (tmp_path / "other").mkdir()
    with pytest.raises(JobError, match="same name"):
        find_inputs([one, write(tmp_path / "other", [{"prompt": [1]}], "jsonl")])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(JobError, match="no row"):
        plan_partitions([tmp_path / "empty.jsonl"], 10)


def test_changed_input_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": [1]}] * 5, "jsonl")
    _, partitions = plan_partitions([path], 5)
    path.write_text('{"prompt": [1]}\n')
    with pytest.raises(JobError, match="was changed"):
        read_rows(partitions[0], ("prompt",))


# The record of a job


def test_rerun_with_other_input_or_parameters_is_refused(tmp_path: Path) -> None:
    path, output = write(tmp_path, [{"prompt": [1]}] * 5, "jsonl"), tmp_path / "out"
    output.mkdir()
    inputs, partitions = plan_partitions([path], 2)
    settings = {"num_samples": 1, "params": {"max_tokens": 3}}
    check_manifest(output, make_manifest(inputs, partitions, settings))
    check_manifest(output, make_manifest(inputs, partitions, settings))
    with pytest.raises(JobError, match=r"other num_samples \(1\)"):
        check_manifest(output, make_manifest(inputs, partitions, {**settings, "num_samples": 2}))
    with pytest.raises(JobError, match="other params"):
        check_manifest(output, make_manifest(inputs, partitions, {**settings, "params": {"max_tokens": 4}}))
    path.write_text('{"prompt": [2]}\n' * 5)
    with pytest.raises(JobError, match="other inputs"):
        check_manifest(output, make_manifest(*plan_partitions([path], 2), settings))


def test_folder_with_foreign_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part-00000.jsonl").touch()
    with pytest.raises(JobError, match="outputs without"):
        check_manifest(tmp_path, make_manifest([], [], {}))


# The shared limit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def count_turns(limit: SharedLimit, clock: Clock, seconds: float) -> int:
    """Take turns as early as the limit allows, at most 100 per second, and return their number."""
    end, turns = clock.now + seconds, 0
    while clock.now < end:
        wait = limit.take_turn()
        turns += wait == 0.0
        clock.now += wait or 0.01
    return turns


def test_429_of_another_process_stops_and_then_slows_this_one(tmp_path: Path) -> None:
    clock, other_clock = Clock(), Clock()
    other_clock.now = 5.0  # clocks of two machines
    limit, other = SharedLimit(str(tmp_path), clock), SharedLimit(str(tmp_path), other_clock)
    assert count_turns(limit, clock, 10) >= 990
    other.report_backoff(3.0)
    count_turns(limit, clock, 0.2)
    assert count_turns(limit, clock, 2.7) == 0
    assert 55 <= count_turns(limit, clock, 1) <= 80  # 0.7 of the rate before
    count_turns(limit, clock, 30)
    assert count_turns(limit, clock, 1) >= 99  # the limit has ended
    assert other.take_turn() == 0.0  # the process with the 429 has its throttle


def test_429s_of_one_episode_reduce_the_rate_once(tmp_path: Path) -> None:
    clock = Clock()
    limit, first, second = (SharedLimit(str(tmp_path), clock) for _ in range(3))
    count_turns(limit, clock, 10)
    for other in (first, second, first):
        other.report_backoff(1.0)
        count_turns(limit, clock, 0.3)
    clock.now += 0.5
    assert 55 <= count_turns(limit, clock, 1) <= 85


def test_signal_of_an_earlier_run_is_ignored(tmp_path: Path) -> None:
    clock = Clock()
    SharedLimit(str(tmp_path), clock).report_backoff(5.0)
    assert count_turns(SharedLimit(str(tmp_path), clock), clock, 1) >= 99


# One task


def make_job(sampler: SamplingClient, output: Path, **changes: Any) -> Job:
    fields: Dict[str, Any] = {
        "output": str(output),
        "file_format": "jsonl",
        "sampler": pickle.dumps(sampler),
        "session_id": sampler.source.session_id,
        "params": {"max_tokens": 2},
        "num_samples": 1,
        "prompt_column": "prompt",
        "id_column": "id",
        "on_error": "raise",
        "timeout": None,
        "tokenizer": None,
        "logprobs": False,
        "share": 8,
    }
    return Job(**{**fields, **changes})


def plan_one(path: Path) -> Partition:
    return plan_partitions([path], 1000)[1][0]


def test_text_prompts_are_encoded_and_completions_decoded(sampler: SamplingClient, tmp_path: Path) -> None:
    partition = plan_one(write(tmp_path, [{"prompt": "to be", "id": "a"}, {"prompt": "or not"}], "jsonl"))
    result = sample_partition(make_job(sampler, tmp_path, num_samples=2), partition)
    assert (result.rows, result.failed) == (2, 0)
    rows = [json.loads(line) for line in output_path(tmp_path, "jsonl", partition).read_text().splitlines()]
    assert [(row["file"], row["index"], row.get("id")) for row in rows] == [
        ("rows.jsonl", 0, "a"),
        ("rows.jsonl", 1, None),
    ]
    for row in rows:
        assert [isinstance(one["text"], str) and len(one["tokens"]) <= 2 for one in row["sequences"]] == [True, True]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_parquet_output_has_one_schema(suffix: str, sampler: SamplingClient, tmp_path: Path) -> None:
    partition = plan_one(write(tmp_path, [{"prompt": [1, 2], "id": 5}, {"prompt": [3], "id": 6}], suffix))
    sample_partition(make_job(sampler, tmp_path, file_format="parquet", logprobs=True), partition)
    table = pq.read_table(output_path(tmp_path, "parquet", partition))
    assert table.schema.names == ["file", "index", "id", "sequences", "error"]
    assert table["id"].to_pylist() == ([5, 6] if suffix == "parquet" else ["5", "6"])
    for row in table["sequences"].to_pylist():
        assert len(row[0]["tokens"]) == len(row[0]["logprobs"])


def test_failed_row_is_recorded_or_ends_the_task(sampler: SamplingClient, tmp_path: Path) -> None:
    partition = plan_one(write(tmp_path, [{"prompt": [1]}, {"prompt": []}, {"other": 1}], "jsonl"))
    with pytest.raises((ValueError, TinkexError)):
        sample_partition(make_job(sampler, tmp_path), partition)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    result = sample_partition(make_job(sampler, tmp_path, on_error="yield"), partition)
    assert (result.rows, result.failed) == (3, 2)
    rows = [json.loads(line) for line in output_path(tmp_path, "jsonl", partition).read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert sample_partition(make_job(sampler, tmp_path), partition).rows == 0  # it is committed


def test_429_of_a_task_is_reported_to_other_processes(
    server: LocalServer, sampler: SamplingClient, tmp_path: Path
) -> None:
    other = SharedLimit(str(tmp_path))
    assert other.take_turn() == 0.0
    server.set_faults(Faults(admit_per_second=20, admit_burst=1))
    partition = plan_one(write(tmp_path, [{"prompt": [1]}] * 8, "jsonl"))
    assert sample_partition(make_job(sampler, tmp_path), partition).rows == 8
    assert (tmp_path / SIGNAL).exists()
    assert other.take_turn() > 0.0


# Arguments


def test_arguments_are_checked_before_anything_is_written(sampler: SamplingClient, tmp_path: Path) -> None:
    path, output = write(tmp_path, [{"prompt": [1]}], "jsonl"), tmp_path / "out"
    for arguments, text in (
        ({"engine": "slurm"}, "engine must be one of"),
        ({}, "engine must be given"),
        ({"engine": "dask", "on_error": "yield"}, "on_error must be"),
        ({"engine": "dask", "file_format": "csv"}, "file_format must be"),
        ({"engine": "dask", "workers": 0}, "workers must be"),
    ):
        with pytest.raises(ValueError, match=text):
            sample_dataset(path, sampler, output=output, **arguments)  # type: ignore[arg-type]
    assert not output.exists()


def test_engine_of_a_dataset_is_found() -> None:
    class Frame:
        __module__ = "dask.dataframe.dask_expr._collection"

    assert engine_name_of(Frame(), None) == "dask"
    with pytest.raises(ValueError, match="must be one of dask"):
        engine_name_of(Frame(), "ray")
