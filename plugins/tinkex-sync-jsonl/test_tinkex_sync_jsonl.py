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
from tinkex_sync_jsonl import JsonLines

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
