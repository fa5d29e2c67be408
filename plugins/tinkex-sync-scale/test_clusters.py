"""Jobs on real clusters of two worker processes on this machine, against the embedded server.

A test runs for each engine that is installed: ``tox -e scale-dask``, ``scale-ray`` and ``scale-spark`` install one.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from tinkex_sync.local import Faults, LocalServer

pytestmark = pytest.mark.timeout(900)
HERE = Path(__file__).parent
INSTALLED = [name for name, module in (("dask", "distributed"), ("ray", "ray"), ("spark", "pyspark"))
             if importlib.util.find_spec(module)]  # fmt: skip
engines = pytest.mark.parametrize("engine", INSTALLED)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


@pytest.fixture
def server(running: LocalServer) -> LocalServer:
    running.set_faults(Faults())
    return running


def start(server: LocalServer, **arguments: Any) -> subprocess.Popen[str]:
    """Start the driver of a job with two workers."""
    environment = {**os.environ, "TINKER_BASE_URL": server.base_url, "TINKER_API_KEY": "local"}
    command = [sys.executable, str(HERE / "cluster_driver.py"), json.dumps({"workers": 2, **arguments})]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=arguments["output"]
    )


def finish(driver: subprocess.Popen[str]) -> Dict[str, Any]:
    """Wait for a job, and return its report."""
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err[-4000:]
    report: Dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def write_prompts(folder: Path, count: int, suffix: str = "jsonl") -> Path:
    path = folder / f"prompts.{suffix}"
    rows = [{"prompt": [number % 90 + 1, 7], "id": f"row {number}"} for number in range(count)]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=130)
    return path


def read_output(folder: Path) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".jsonl":
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        else:
            import pyarrow.parquet as pq

            rows += pq.read_table(path).to_pylist()
    return rows


def assert_each_row_once(folder: Path, count: int) -> None:
    rows = read_output(folder)
    ids = collections.Counter(row["id"] for row in rows)
    assert ids == collections.Counter(f"row {number}" for number in range(count))
    assert all(len(row["sequences"]) == 1 and row["error"] is None for row in rows)


def accepted(server: LocalServer) -> int:
    count: int = server.stats()["samples_accepted"]
    return count


def wait_for_worker(driver: subprocess.Popen[str], server: LocalServer, folder: Path, rows: int) -> int:
    """Return the id of a process whose samples are in flight, once another partition is committed.

    Args:
        rows: Rows of a partition.
    """
    before, deadline = accepted(server), time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        working = list(folder.glob("_part-*.tmp"))
        committed = len(list(folder.glob("part-*")))
        # More rows than those of one running task were accepted, so both have samples in flight.
        if committed and len(working) == 2 and accepted(server) - before > (committed + 1) * rows:
            found = re.search(r"-(\d+)\.\w+\.tmp$", working[0].name)
            if found and working[0].exists():
                return int(found.group(1))
        time.sleep(0.02)
    driver.kill()
    raise AssertionError(f"no worker was seen at work: {driver.communicate()}")


@engines
def test_each_row_is_answered_once_if_a_worker_is_killed_and_the_job_is_run_again(
    engine: str, server: LocalServer, tmp_path: Path
) -> None:
    prompts, output = write_prompts(tmp_path, 1200), tmp_path / "out"
    output.mkdir()
    arguments = {"dataset": str(prompts), "output": str(output), "engine": engine, "rows_per_partition": 100}
    before = accepted(server)
    driver = start(server, **arguments)
    killed = wait_for_worker(driver, server, output, 100)
    os.kill(killed, signal.SIGKILL)
    report = finish(driver)
    assert report["partitions"] == 12
    assert report["rows_sampled"] == 1200
    assert_each_row_once(output, 1200)
    # The lost partition was sampled again, at most for both workers.
    assert 1200 < accepted(server) - before <= 1400
    assert not list(output.glob("*.tmp"))

    before = accepted(server)
    again = finish(start(server, **arguments))
    assert (again["partitions_skipped"], again["rows_sampled"]) == (12, 0)
    assert accepted(server) == before
    assert_each_row_once(output, 1200)


@engines
def test_a_killed_job_continues(engine: str, server: LocalServer, tmp_path: Path) -> None:
    prompts, output = write_prompts(tmp_path, 600, "parquet"), tmp_path / "out"
    output.mkdir()
    arguments = {"dataset": str(prompts), "output": str(output), "engine": engine, "rows_per_partition": 50}
    driver = start(server, **arguments)
    wait_for_worker(driver, server, output, 50)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=120)
    committed = len(list(output.glob("part-*")))
    assert 0 < committed < 12
    report = finish(start(server, **arguments))
    assert report["partitions_skipped"] >= committed
    assert report["rows_sampled"] <= 600 - 50 * committed
    assert_each_row_once(output, 600)


@engines
def test_dataset_of_the_engine_is_sampled(engine: str, server: LocalServer, tmp_path: Path) -> None:
    prompts, output = write_prompts(tmp_path, 300, "parquet"), tmp_path / "out"
    output.mkdir()
    arguments = {"dataset": str(prompts), "output": str(output), "engine": engine, "rows_per_partition": 70}
    report = finish(start(server, native=True, **arguments))
    assert report["rows"] == 300
    assert_each_row_once(output, 300)
    assert all(path.suffix == ".parquet" for path in output.glob("part-*"))
    again = finish(start(server, native=True, **arguments))
    assert again["rows_sampled"] == 0


@engines
def test_429_in_one_process_slows_the_other(engine: str, server: LocalServer, tmp_path: Path) -> None:
    prompts, output = write_prompts(tmp_path, 400), tmp_path / "out"
    output.mkdir()
    server.set_faults(Faults(admit_per_second=30, admit_burst=5))
    report = finish(start(server, dataset=str(prompts), output=str(output), engine=engine, rows_per_partition=100))
    assert report["processes"] == 2
    assert report["waited"] > 0
    assert_each_row_once(output, 400)


@engines
def test_example_and_command_line_sample_each_row(engine: str, server: LocalServer, tmp_path: Path) -> None:
    write_prompts(tmp_path, 20)
    environment = {**os.environ, "TINKER_BASE_URL": server.base_url, "TINKER_API_KEY": "local"}
    options: Dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True, "timeout": 200, "check": True}
    done = subprocess.run([sys.executable, str(HERE / "example.py"), engine], stdout=subprocess.PIPE, **options)
    assert "rows_sampled=20" in done.stdout
    assert_each_row_once(tmp_path / "out", 20)
    write_prompts(tmp_path, 20, "parquet")
    command = ["sample", "prompts.parquet", "-o", "more", "--model", "tinkex/tiny", "--max-tokens", "2"]
    command = [sys.executable, "-m", "tinkex_sync", *command, "--engine", engine, "--workers", "2", "-f", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, **options)
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["rows_sampled"] == 20
    assert_each_row_once(tmp_path / "more", 20)
