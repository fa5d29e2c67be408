"""Tests of the installed distribution: ``pip install . ../.. pytest && pytest``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
from click.testing import CliRunner
from tinkex_sync_jsonl import JsonLines
from tinkex_sync_jsonl_events import events, summarise

from tinkex_sync.plugins.events import Boundary, Source
from tinkex_sync.plugins.hookspecs import SPECS, argument_names
from tinkex_sync.plugins.registry import Observers

SOURCE = Source("training", "model-1", "session-1")
EVENTS = [name[len("tinkex_") :] for name in SPECS if argument_names(name)[0] == "source"]


def emit(registry: Observers, hook: str, **facts: Any) -> None:
    """Report an event. Arguments that are not given have their own name as value."""
    names = argument_names("tinkex_" + hook)
    getattr(registry, hook)(**{**{name: name for name in names}, "source": SOURCE, "call_id": "c1", **facts})


def lines(path: Path) -> List[Dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINKEX_SYNC_JSONL", str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


def observers() -> Observers:
    return Observers([JsonLines], autoload=False, strict=True)


def test_plugin_is_loaded_by_its_entry_point_and_writes_events(path: Path) -> None:
    assert metadata.version("tinkex-sync-jsonl")
    registry = Observers(strict=True)
    [status] = [status for status in registry.report() if status.name == "jsonl"]
    assert (status.distribution, status.origin, status.status) == ("tinkex-sync-jsonl", "entry point", "active")
    emit(registry, "session_opened", call_id="")
    assert registry.close(30)
    assert [line["hook"] for line in lines(path)] == ["session_opened"]


def test_every_event_is_one_line_with_all_arguments(path: Path) -> None:
    registry = observers()
    for hook in EVENTS:
        emit(registry, hook)
    assert registry.close(30)
    written = lines(path)
    assert [line["hook"] for line in written] == EVENTS
    for line in written:
        assert line["source"] == {"kind": "training", "id": "model-1", "session_id": "session-1"}
        assert line["call_id"] == "c1"
        assert line["pid"] == os.getpid()
        assert line["thread"] == threading.current_thread().name
        assert set(argument_names("tinkex_" + line["hook"])) <= line.keys()
    assert [line["monotonic"] for line in written] == sorted(line["monotonic"] for line in written)


def test_values_without_json_form_are_converted(path: Path) -> None:
    registry = observers()
    boundaries = (Boundary(0, 0, 2, 80), Boundary(1, 2, 3, 40))
    emit(registry, "chunks_planned", boundaries=boundaries, limits={"items": 2, "bytes": 100})
    emit(registry, "retry_scheduled", cause=OSError("no \udcff route"), delay=float("inf"))
    emit(registry, "adam_params_serialized", params=SimpleNamespace(a=1), payload={"beta1": 0.9})
    assert registry.close(30)
    planned, retry, adam = lines(path)
    assert planned["boundaries"][1] == {"index": 1, "start": 2, "stop": 3, "estimated_bytes": 40}
    assert planned["limits"] == {"items": 2, "bytes": 100}
    assert retry["cause"] == {"type": "OSError", "message": "no \udcff route"}
    assert retry["delay"] == "inf"
    assert adam["payload"] == {"beta1": 0.9}


def test_lines_of_several_threads_and_clients_stay_whole(path: Path) -> None:
    clients = [observers() for _ in range(4)]

    def run(number: int) -> None:
        for count in range(100):
            emit(clients[number % 4], "call_started", operation=str(number), items=count)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(client.close(30) for client in clients)
    written = lines(path)
    for number in range(16):
        assert [line["items"] for line in written if line["operation"] == str(number)] == list(range(100))


def test_file_is_appended_to_and_opened_again_after_close(path: Path) -> None:
    path.write_text('{"hook":"before"}\n')
    registry = observers()
    for _ in range(2):
        emit(registry, "session_closed")
        assert registry.close(30)
    assert [line["hook"] for line in lines(path)] == ["before", "session_closed", "session_closed"]


def test_unwritable_file_loses_only_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINKEX_SYNC_JSONL", str(tmp_path / "absent" / "events.jsonl"))
    plugin = JsonLines()
    registry = Observers([plugin], autoload=False, strict=True)
    emit(registry, "session_opened")
    assert registry.close(30)
    assert plugin.failed == 1
    assert len(caplog.records) == 1


def test_empty_variable_disables_the_plugin_and_missing_variable_means_default_file(tmp_path: Path) -> None:
    script = (
        "from tinkex_sync.plugins import Observers; from tinkex_sync_jsonl import JsonLines\n"
        "import os; from tinkex_sync.plugins import Source\n"
        "registry = Observers([JsonLines], autoload=False); os.mkdir('sub'); os.chdir('sub')\n"
        "if registry.session_opened: registry.session_opened(source=Source('service', 's', 's'), call_id='')\n"
        "assert registry.close(30)\n"
    )
    for folder, value in (("off", ""), ("on", None)):
        (tmp_path / folder).mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.pop("TINKEX_SYNC_JSONL", None)
        if value is not None:
            environment["TINKEX_SYNC_JSONL"] = value
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path / folder, env=environment, check=True, timeout=60)
    assert [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.jsonl")] == ["on/tinkex-sync.jsonl"]


# Rotation


def test_a_full_file_is_renamed_and_the_oldest_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    plugin = JsonLines(str(path), max_bytes=2_000, keep=2)
    registry = Observers([plugin], autoload=False, strict=True)
    for number in range(60):
        emit(registry, "call_started", items=number)
        assert plugin.flush()
    assert registry.close(30)
    names = sorted(found.name for found in tmp_path.iterdir() if not found.name.endswith(".lock"))
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    kept = [line["items"] for name in reversed(names) for line in lines(tmp_path / name)]
    assert kept == list(range(60 - len(kept), 60))
    assert all((tmp_path / name).stat().st_size < 2_400 for name in names)


def test_processes_that_share_a_rotated_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    script = (
        "import sys; from tinkex_sync.plugins import Observers, Source; from tinkex_sync_jsonl import JsonLines\n"
        "plugin = JsonLines(sys.argv[1], max_bytes=3000, keep=100)\n"
        "registry = Observers([plugin], autoload=False)\n"
        "for number in range(100):\n"
        "    registry.call_started(source=Source('s', 's', 's'), call_id=sys.argv[2], operation='x', items=number)\n"
        "    plugin.flush()\n"
        "assert registry.close(30) and not plugin.failed\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(one)], env=environment) for one in range(3)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    found = [line for one in tmp_path.glob("events.jsonl*") if one.suffix != ".lock" for line in lines(one)]
    for name in "012":
        assert sorted(line["items"] for line in found if line["call_id"] == name) == list(range(100))


@pytest.mark.parametrize(("name", "value"), [("MAX_BYTES", "big"), ("KEEP", "0"), ("MAX_BYTES", "-1")])
def test_a_wrong_number_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TINKEX_SYNC_JSONL_{name}", value)
    with pytest.raises(ValueError, match=f"TINKEX_SYNC_JSONL_{name} must be a whole number"):
        JsonLines("x")


# The summary


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The events of a real run: training, samples, a refusal and a pause."""
    from tinkex_sync import ServiceClient, TinkexError, types
    from tinkex_sync.testing import Faults, LocalServer

    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    datum = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
    prompt, params = types.ModelInput.from_ints([1]), types.SamplingParams(max_tokens=2)
    settings = {"api_key": "local", "load_plugins": False, "max_chunk_datums": 2, "plugins": [JsonLines(str(path))]}
    with LocalServer() as server, ServiceClient(base_url=server.base_url, **settings) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        for step in range(3):
            training.train_step([datum] * 4, "cross_entropy", types.AdamParams(learning_rate=0.1 / (step + 1)))
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        server.set_faults(Faults(fail_first={"asample": [503, 400]}))
        with pytest.raises(TinkexError):
            sampler.sample(prompt, 1, params)
        server.set_faults(Faults(pause=0.6, pause_reason="maintenance", pause_hold=0.1))
        sampler.sample(prompt, 1, params)
    return path


def test_the_summary_has_calls_retries_queue_states_chunks_and_steps(recorded: Path) -> None:
    found = summarise(recorded)
    calls = {(row["operation"], row["outcome"]): row["calls"] for row in found["calls"]}
    assert calls["forward_backward", "ok"] == calls["optim_step", "ok"] == 3
    assert calls["sample", "ok"] == calls["sample", "error"] == 1
    assert {row["cause"] for row in found["retries"]} == {"InternalServerError"}
    [pause] = found["queue_states"]
    assert (pause["state"], pause["reason"]) == ("paused_capacity", "maintenance") and 0.2 < pause["seconds"] < 30
    [chunks] = found["chunks"]
    assert (chunks["chunks"], chunks["mean_datums"], chunks["datums_of_limit"]) == (6, 2.0, 1.0)
    rate = next(row for row in found["steps"] if row["value"] == "learning_rate")
    assert (rate["steps"], rate["first"]) == (3, 0.1) and rate["last"] == pytest.approx(0.1 / 3)
    assert next(row for row in found["steps"] if row["value"] == "loss")["steps"] == 3


def test_the_command_prints_a_table_or_json(recorded: Path) -> None:
    runner = CliRunner()
    table = runner.invoke(events, [str(recorded)])
    assert table.exit_code == 0 and "calls:" in table.output and "maintenance" in table.output
    data = runner.invoke(events, [str(recorded), "--format", "json"])
    assert json.loads(data.output) == summarise(recorded)


def test_a_line_that_a_run_still_writes_is_left_out_and_others_are_errors(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    path.write_bytes(recorded.read_bytes() + b'{"hook": "call_fin')
    assert summarise(path) == summarise(recorded)
    path.write_text('{"x": 1}\n')
    done = CliRunner().invoke(events, [str(path)])
    assert done.exit_code == 1 and f"{path}:1: not an event" in done.output


def test_the_command_is_part_of_the_command_line(recorded: Path) -> None:
    command = [sys.executable, "-m", "tinkex_sync", "events", str(recorded)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout
