"""These run where the distribution is installed: ``pip install . ../.. pytest && pytest``."""

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
from tinkex_sync_jsonl import JsonLines

from tinkex_sync.plugins.hookspecs import SPECS, Boundary, Source, argument_names
from tinkex_sync.plugins.registry import Observers

SOURCE = Source("training", "model-1", "session-1")
EVENTS = [name[len("tinkex_") :] for name in SPECS if argument_names(name)[0] == "source"]


def emit(told: Observers, hook: str, **facts: Any) -> None:
    """An event whose facts, where the test does not care, are their own names."""
    names = argument_names("tinkex_" + hook)
    getattr(told, hook)(**{**{name: name for name in names}, "source": SOURCE, "call_id": "c1", **facts})


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


def test_it_loads_by_its_entry_point_and_writes_what_happens(path: Path) -> None:
    assert metadata.version("tinkex-sync-jsonl")
    told = Observers(strict=True)
    [status] = [status for status in told.report() if status.name == "jsonl"]
    assert (status.distribution, status.origin, status.status) == (
        "tinkex-sync-jsonl",
        "entry point",
        "active",
    )
    emit(told, "session_opened", call_id="")
    assert told.close(30)
    assert [line["hook"] for line in lines(path)] == ["session_opened"]


def test_every_event_is_a_line_with_all_its_facts(path: Path) -> None:
    told = observers()
    for hook in EVENTS:
        emit(told, hook)
    assert told.close(30)
    written = lines(path)
    assert [line["hook"] for line in written] == EVENTS
    for line in written:
        assert line["source"] == {"kind": "training", "id": "model-1", "session_id": "session-1"}
        assert line["call_id"] == "c1"
        assert line["pid"] == os.getpid()
        assert line["thread"] == threading.current_thread().name
        assert set(argument_names("tinkex_" + line["hook"])) <= line.keys()
    assert [line["monotonic"] for line in written] == sorted(line["monotonic"] for line in written)


def test_values_that_are_not_json_are_written_readably(path: Path) -> None:
    told = observers()
    boundaries = (Boundary(0, 0, 2, 80), Boundary(1, 2, 3, 40))
    emit(told, "chunks_planned", boundaries=boundaries, limits={"items": 2, "bytes": 100})
    emit(told, "retry_scheduled", cause=OSError("no \udcff route"), delay=float("inf"))
    emit(told, "adam_params_serialized", params=SimpleNamespace(a=1), payload={"beta1": 0.9})
    assert told.close(30)
    planned, retry, adam = lines(path)
    assert planned["boundaries"][1] == {"index": 1, "start": 2, "stop": 3, "estimated_bytes": 40}
    assert planned["limits"] == {"items": 2, "bytes": 100}
    assert retry["cause"] == {"type": "OSError", "message": "no \udcff route"}
    assert retry["delay"] == "inf"
    assert adam["payload"] == {"beta1": 0.9}


def test_lines_of_many_threads_and_clients_do_not_mix(path: Path) -> None:
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


def test_it_appends_and_opens_the_file_again_after_a_close(path: Path) -> None:
    path.write_text('{"hook":"before"}\n')
    told = observers()
    for _ in range(2):
        emit(told, "session_closed")
        assert told.close(30)
    assert [line["hook"] for line in lines(path)] == ["before", "session_closed", "session_closed"]


def test_a_file_that_cannot_be_written_costs_its_events_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINKEX_SYNC_JSONL", str(tmp_path / "absent" / "events.jsonl"))
    plugin = JsonLines()
    told = Observers([plugin], autoload=False, strict=True)
    emit(told, "session_opened")
    assert told.close(30)
    assert plugin.failed == 1
    assert len(caplog.records) == 1


def test_set_to_nothing_it_is_off_and_without_the_variable_it_writes_here(tmp_path: Path) -> None:
    script = (
        "from tinkex_sync.plugins import Observers; from tinkex_sync_jsonl import JsonLines\n"
        "import os; from tinkex_sync.plugins import Source\n"
        "told = Observers([JsonLines], autoload=False); os.mkdir('sub'); os.chdir('sub')\n"
        "if told.session_opened: told.session_opened(source=Source('service', 's', 's'), call_id='')\n"
        "assert told.close(30)\n"
    )
    for folder, value in (("off", ""), ("on", None)):
        (tmp_path / folder).mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.pop("TINKEX_SYNC_JSONL", None)
        if value is not None:
            environment["TINKEX_SYNC_JSONL"] = value
        subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path / folder, env=environment, check=True, timeout=60
        )
    assert [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.jsonl")] == [
        "on/tinkex-sync.jsonl"
    ]
