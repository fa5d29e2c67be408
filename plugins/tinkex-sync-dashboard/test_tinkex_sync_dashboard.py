"""Tests of the installed distribution: ``pip install . ../tinkex-sync-jsonl ../..[cli] pytest && pytest``."""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

import pytest
from tinkex_sync_dashboard import Dashboard
from tinkex_sync_dashboard.recordings import parse_line, replay
from tinkex_sync_dashboard.runs import COLUMNS, Run, Runs
from tinkex_sync_dashboard.server import DashboardServer
from tinkex_sync_dashboard.tables import Table
from tinkex_sync_jsonl import JsonLines

from tinkex_sync import ServiceClient, types
from tinkex_sync.plugins import Boundary, Source
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.testing import check_plugin

SOURCE = Source("training", "model-1", "session-1")
SAMPLER = Source("sampling", "sampler-1", "session-1")


def facts(source: Source = SOURCE, call_id: str = "c1", **others: Any) -> Dict[str, Any]:
    return {"source": source, "call_id": call_id, **others}


def finished(**result: Any) -> Dict[str, Any]:
    return facts(operation="forward_backward", items=1, outcome="ok", elapsed=0.1, facts=result, error=None)


def acquired(in_flight: int, bytes_left: int, charged: int, throttled: bool = False) -> Dict[str, Any]:
    values = {"in_flight": in_flight, "bytes_left": bytes_left, "charged_bytes": charged, "throttled": throttled}
    return facts(SAMPLER, estimated_bytes=charged, waited=0.5, waiting=3, **values)


def state(name: str, waited: float = 0.0, source: Source = SOURCE) -> Dict[str, Any]:
    reason = None if name == "active" else "busy"
    return facts(source, state=name, previous=None, reason=reason, reason_source="server", waited=waited)


def column(run: Run, name: str) -> List[float]:
    return [row[COLUMNS.index(name)] for row in run.tables["intervals"].rows()]


# Tables


def test_full_table_removes_its_oldest_row() -> None:
    table = Table(3)
    for number in range(5):
        table.put(number, [number])
    assert table.rows() == [[2], [3], [4]]
    changes = table.changes(0)
    assert changes == {"limit": 3, "reset": True, "rows": [[2, [2]], [3, [3]], [4, [4]]]}
    version = table.version
    assert table.changes(version) is None
    table.put(5, [5])
    assert table.changes(version) == {"limit": 3, "reset": False, "rows": [[5, [5]]]}


def test_full_table_of_a_curve_keeps_its_beginning_and_its_newest_row() -> None:
    table = Table(100, thins=True)
    version = 0
    for number in range(1000):
        table.put(number, number)
        version = version or table.version
    rows = table.rows()
    assert 50 <= len(rows) <= 100
    assert rows[-1] == 999
    assert rows[0] < 100
    changes = table.changes(version)
    assert changes is not None
    assert changes["reset"]
    assert [row for _, row in changes["rows"]] == rows


def test_reader_of_a_cleared_table_gets_all_rows_again() -> None:
    table = Table(3)
    table.put(1, "a")
    version = table.version
    table.clear()
    table.put(2, "b")
    assert table.changes(version) == {"limit": 3, "reset": True, "rows": [[2, "b"]]}


# Runs


def test_merged_intervals_keep_sums_and_largest_values() -> None:
    run = Run(1, "", 0.0)
    for second in range(5000):
        run.add(second + 0.5, "call_started", facts())
        run.add(second + 0.5, "dispatch_acquired", acquired(second % 7, 1000, 10))
    run.flush()
    assert len(run.tables["intervals"].rows()) <= 600
    assert sum(column(run, "calls")) == 5000
    assert max(column(run, "in_flight")) == 6
    assert run.width == 16.0


def test_state_is_a_row_until_the_client_is_active() -> None:
    run = Run(1, "", 0.0)
    run.add(10.0, "queue_state_changed", state("paused_capacity", waited=4.0))
    run.add(12.0, "queue_state_changed", state("paused_rate_limit"))
    run.add(13.0, "queue_state_changed", state("paused_capacity", source=SAMPLER))
    run.add(15.0, "queue_state_changed", state("active", waited=9.0))
    assert [row[:2] for row in run.tables["states"].rows()] == [[6.0, 12.0], [12.0, 15.0], [13.0, None]]
    run.add(20.0, "session_closed", facts())
    assert run.tables["states"].rows()[-1][:2] == [13.0, 20.0]
    assert run.ended == 20.0


def test_overlapping_backoffs_are_one_row() -> None:
    run = Run(1, "", 0.0)
    for time_, duration, everyone in ((1.0, 1.0, True), (1.5, 1.0, True), (1.6, 1.0, False), (9.0, 1.0, False)):
        run.add(time_, "backoff_started", facts(SAMPLER, duration=duration, until=0.0, everyone=everyone))
    assert run.tables["backoffs"].rows() == [[1.0, 2.5, True, 2], [1.6, 2.6, False, 1], [9.0, 10.0, False, 1]]


def test_bytes_in_flight_are_what_the_budget_lacks() -> None:
    run = Run(1, "", 0.0)
    run.add(0.1, "dispatch_acquired", acquired(1, 900, 100))
    run.add(0.2, "dispatch_acquired", acquired(2, 700, 200))
    run.add(0.3, "dispatch_released", facts(SAMPLER, in_flight=1, bytes_left=800, waiting=0))
    run.add(1.3, "dispatch_released", facts(SAMPLER, in_flight=0, bytes_left=1000, waiting=0))
    assert column(run, "bytes_in_flight") == [300, 200]
    assert column(run, "byte_limit") == [1000, 1000]
    assert column(run, "in_flight") == [2, 1]
    assert column(run, "slot_limit") == [400, 0]
    assert column(run, "waiting") == [3, 0]


def test_reduced_limit_after_a_backoff_is_shown() -> None:
    run = Run(1, "", 0.0)
    run.add(0.1, "dispatch_acquired", acquired(1, 900, 100, throttled=True))
    assert (column(run, "slot_limit"), column(run, "throttled")) == ([10], [1])


def test_loss_metrics_and_tokens_come_from_results() -> None:
    run = Run(1, "", 0.0)
    run.add(1.0, "call_finished", finished(loss=2.0, tokens=30, metrics={"entropy": 0.5}))
    run.add(2.0, "call_finished", finished(loss=math.nan, tokens=20, metrics={"entropy": "nan"}))
    run.add(3.0, "call_finished", finished(prompt_tokens=3, completion_tokens=4))
    run.add(4.0, "call_finished", finished(step=7, metrics={"grad_norm": 1.5}))
    assert [row[3:] for row in run.tables["metrics"].rows()] == [
        [1, {"loss": 2.0, "entropy": 0.5}],
        [2, {"loss": None, "entropy": None}],
        [7, {"grad_norm": 1.5}],
    ]
    assert sum(column(run, "tokens")) == 57


def test_steps_have_their_learning_rate_decay_and_clip_norm() -> None:
    run = Run(1, "", 0.0)
    for rate in (1e-3, 5e-4):
        payload = {"learning_rate": rate, "beta1": 0.9, "weight_decay": 0.01, "grad_clip_norm": 1.0}
        run.add(1.0, "adam_params_serialized", facts(params=None, payload=payload))
    steps = [row[1:] for row in run.tables["steps"].rows()]
    assert steps == [["model-1", 1, 1e-3, 0.01, 1.0], ["model-1", 2, 5e-4, 0.01, 1.0]]


def test_chunks_have_estimated_and_actual_bytes() -> None:
    run = Run(1, "", 0.0)
    boundaries = (Boundary(0, 0, 2, 80), Boundary(1, 2, 3, 40))
    planned = facts(operation="forward", boundaries=boundaries, limits={"items": 2, "bytes": 100})
    run.add(1.0, "chunks_planned", planned)
    run.add(1.1, "chunk_sent", facts(boundary=boundaries[1], body_bytes=37, request_id=None, elapsed=0.1))
    expected = [1.0, "forward", "model-1", 2, 2, 100, [[0, 2, 80, None], [2, 3, 40, 37]]]
    assert run.tables["batches"].rows() == [expected]


def test_equal_errors_are_counted_in_one_row() -> None:
    run = Run(1, "", 0.0)
    for time_, error in ((1.0, OSError("no route")), (2.0, {"type": "OSError", "message": "no route"})):
        run.add(time_, "heartbeat_missed", facts(misses=1, silent_for=1.0, error=error))
    failed = {**finished(), "outcome": "timeout", "error": TimeoutError("60 s")}
    run.add(3.0, "call_finished", failed)
    errors = run.tables["errors"].rows()
    assert errors[0] == [1.0, 2.0, 2, "heartbeat", "OSError", "no route"]
    assert errors[1][2:] == [1, "forward_backward (timeout)", "TimeoutError", "60 s"]
    assert sum(column(run, "failed")) == 1


@pytest.mark.parametrize("status", [402, 408, 429, 503])
def test_responses_that_are_part_of_a_pause_are_no_errors(status: int) -> None:
    run = Run(1, "", 0.0)
    sizes = {"sent_bytes": 5, "received_bytes": 7}
    run.add(1.0, "request_finished", facts(method="POST", route="/r", status=status, error=OSError("x"), **sizes))
    assert len(run.tables["errors"].rows()) == (status == 503)
    assert (column(run, "requests"), column(run, "sent_bytes")) == ([1], [5])


@pytest.mark.parametrize("changed", [{}, {"in_flight": "many"}, {"bytes_left": math.nan}, {"waited": None}])
def test_event_with_unusable_facts_is_counted(changed: Dict[str, Any]) -> None:
    run = Run(1, "", 0.0)
    values = {**acquired(1, 900, 100), **changed} if changed else facts(SAMPLER)
    run.add(0.1, "dispatch_acquired", values)
    assert (run.events, run.unusable) == (1, 1)
    json.dumps(run.tables["intervals"].rows(), allow_nan=False)


def test_requests_that_open_a_session_belong_to_its_run() -> None:
    runs = Runs()
    opening = Source("service", "", "")
    runs.add("", [(1.0, "call_started", facts(opening)), (2.0, "call_started", facts()), (3.0, "x", facts())])
    [run] = runs.changes({})
    assert (run["run"], run["session"], run["events"], run["started"]) == (1, "session-1", 3, 1.0)


def test_least_recent_of_more_than_50_runs_is_removed() -> None:
    runs = Runs()
    for number in range(60):
        runs.add("", [(float(number), "session_opened", facts(Source("service", "s", f"session-{number}")))])
    assert [run["session"] for run in runs.changes({})] == [f"session-{number}" for number in range(10, 60)]


def test_memory_is_bounded_in_a_long_run() -> None:
    runs = Runs()
    for number in range(5_000):
        now = number * 20.0
        batch = facts(call_id=str(number), operation="x", boundaries=[Boundary(0, 0, 1, 1)] * 500, limits={})
        runs.add(
            "",
            [
                (now, "chunks_planned", batch),
                (now, "call_finished", finished(loss=1.0, metrics={str(name): 1.0 for name in range(100)})),
                (now, "queue_state_changed", state("paused_capacity")),
                (now, "heartbeat_missed", facts(error=OSError(str(number) * 1000))),
            ],
        )
    [run] = runs.changes({})
    assert run["events"] == 20_000
    assert run["unusable"] == 0
    assert all(len(table["rows"]) <= table["limit"] for table in run["tables"].values())
    assert len(json.dumps(run)) < 4_000_000


def test_10000_events_take_less_than_two_percent_of_a_minute_of_cpu_time() -> None:
    runs = Runs()
    request = facts(method="POST", route="/r", status=200, sent_bytes=10, received_bytes=10, error=None)
    events = [
        (number / 167, hook, values)
        for number in range(2500)
        for hook, values in (
            ("call_started", facts()),
            ("dispatch_acquired", acquired(3, 1000, 10)),
            ("request_finished", request),
            ("call_finished", finished(loss=1.0, tokens=10, metrics={"a": 1.0})),
        )
    ]
    known: Dict[str, int] = {}
    began = time.thread_time()
    for start in range(0, len(events), 84):  # half a second, after which the page is updated
        runs.add("", events[start : start + 84])
        json.dumps(runs.changes(known))
    assert time.thread_time() - began < 0.02 * 60


# Recorded files


def line(hook: str, time_: float, **others: Any) -> str:
    source = {"kind": "service", "id": "s", "session_id": "session-1"}
    return json.dumps({"time": time_, "hook": hook, "source": source, "call_id": "", **others}) + "\n"


def test_recorded_line_has_the_types_of_the_hook() -> None:
    boundary = {"index": 0, "start": 0, "stop": 2, "estimated_bytes": 80}
    event = parse_line(line("x", 1.5, boundary=boundary, boundaries=[boundary]).encode())
    assert event is not None
    time_, hook, values = event
    assert (time_, hook, values["source"].session_id) == (1.5, "x", "session-1")
    assert values["boundary"] == Boundary(0, 0, 2, 80)
    assert values["boundaries"] == [Boundary(0, 0, 2, 80)]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"hook": "x"}', '{"time": "now", "hook": "x", "source": {}}'])
def test_line_without_an_event_is_skipped(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(f"{text}\n" + line("call_started", 1.0) + '{"half')
    runs = Runs()
    assert replay(file, runs, threading.Event(), follow=False) == 1
    assert [run["events"] for run in runs.changes({})] == [1]


@pytest.mark.parametrize("time_", [math.nan, math.inf, -math.inf])
def test_line_with_an_impossible_time_is_skipped(time_: float) -> None:
    assert parse_line(line("call_started", time_).encode()) is None


def wait_for_events(runs: Runs, count: int) -> None:
    deadline = time.monotonic() + 30
    version = -1
    while sum(run["events"] for run in runs.changes({})) < count:
        assert time.monotonic() < deadline
        version = runs.wait(version, 1.0)


def test_file_is_followed_while_it_grows_and_when_it_is_rotated(tmp_path: Path) -> None:
    file, runs, stop = tmp_path / "run.jsonl", Runs(), threading.Event()
    file.write_text(line("call_started", 1.0))
    thread = threading.Thread(target=replay, args=(file, runs, stop))
    thread.start()
    try:
        wait_for_events(runs, 1)
        with file.open("a") as growing:
            growing.write(line("call_started", 2.0))
        wait_for_events(runs, 2)
        file.rename(tmp_path / "run.jsonl.1")
        file.write_text(line("call_started", 3.0))
        wait_for_events(runs, 3)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_replay_at_the_speed_of_the_run_takes_its_time(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(line("call_started", 100.0) + line("call_started", 103.0))
    began = time.monotonic()
    replay(file, Runs(), threading.Event(), speed=10.0, follow=False)
    assert time.monotonic() - began >= 0.3


# The server


@pytest.fixture
def server() -> Iterator[DashboardServer]:
    server = DashboardServer(Runs())
    yield server
    server.close()


def get(url: str, path: str, headers: Optional[Dict[str, str]] = None) -> Tuple[int, Dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


class Stream:
    """The events of a page."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self.connection.request("GET", parts.path + "events")
        self.response = self.connection.getresponse()

    def read(self) -> Tuple[str, Any]:
        lines: List[str] = []
        while not lines or lines[-1]:
            lines.append(self.response.readline().decode().rstrip("\n"))
            assert lines[-1] or len(lines) > 1, "the stream has ended"
        return lines[0].partition(": ")[2], json.loads(lines[1].partition(": ")[2])

    def close(self) -> None:
        self.response.close()  # A stream without a length keeps the socket beside the connection.
        self.connection.close()


def test_page_and_its_files_are_served_with_a_strict_policy(server: DashboardServer) -> None:
    prefix = urlsplit(server.url).path
    for name, kind in (("", "text/html"), ("app.js", "text/javascript"), ("uPlot.iife.min.js", "text/javascript")):
        status, headers, body = get(server.url, prefix + name)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert body
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("charts.js", "style.css", "icon.svg", "uPlot.min.css", "uPlot-LICENSE.txt"):
        assert get(server.url, prefix + name)[0] == 200
    assert b"MIT" in get(server.url, prefix + "uPlot-LICENSE.txt")[2]
    assert get(server.url, prefix + "../server.py")[0] == 404
    assert get(server.url, prefix.rstrip("/"))[0] == 404


def test_page_names_only_files_of_its_own(server: DashboardServer) -> None:
    body = get(server.url, urlsplit(server.url).path)[2].decode()
    assert "http" not in body.replace("http-equiv", "")


@pytest.mark.parametrize("path", ["/", "/events", "/wrong/", "/wrong/events", "//events", "/%00/"])
def test_token_is_required(server: DashboardServer, path: str) -> None:
    status, _, body = get(server.url, path)
    assert status == 403
    assert server.token.encode() not in body


def test_other_names_of_the_host_and_pages_of_other_origins_are_refused(server: DashboardServer) -> None:
    path, port = urlsplit(server.url).path, urlsplit(server.url).port
    assert get(server.url, path, {"Host": f"evil.example:{port}"})[0] == 403
    assert get(server.url, path + "events", {"Origin": "http://evil.example"})[0] == 403
    assert get(server.url, path, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"})[0] == 200


def test_server_listens_on_loopback_only(server: DashboardServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_stream_sends_everything_first_and_then_what_changed(server: DashboardServer) -> None:
    server.runs.add("", [(1.0, "call_finished", finished(loss=2.0, metrics={}))])
    stream = Stream(server.url)
    assert stream.read() == ("start", {"columns": list(COLUMNS)})
    name, [run] = stream.read()
    assert name == "update"
    assert run["tables"]["metrics"]["rows"] == [[1, [0.0, "model-1", "forward_backward", 1, {"loss": 2.0}]]]
    server.runs.add("", [(1.5, "call_started", facts())])
    name, [run] = stream.read()
    assert list(run["tables"]) == ["intervals"]
    server.close()
    assert stream.read() == ("end", None)
    stream.close()


def test_a_seventeenth_page_is_refused(server: DashboardServer) -> None:
    streams = [Stream(server.url) for _ in range(16)]
    assert {stream.response.status for stream in streams} == {200}
    assert get(server.url, urlsplit(server.url).path + "events")[0] == 503
    for stream in streams:
        stream.close()


# The plugin and the command


def environment(**variables: str) -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def test_plugin_is_loaded_by_its_entry_point_beside_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metadata.version("tinkex-sync-dashboard")
    monkeypatch.setenv("TINKEX_SYNC_JSONL", str(tmp_path / "run.jsonl"))
    monkeypatch.delenv("TINKEX_SYNC_DASHBOARD", raising=False)
    registry = Observers(strict=True)
    found = {status.name: (status.distribution, status.status) for status in registry.report()}
    assert found["dashboard"] == ("tinkex-sync-dashboard", "active")
    assert found["dashboard-command"] == ("tinkex-sync-dashboard", "active")
    assert found["jsonl"] == ("tinkex-sync-jsonl", "active")
    assert registry.close(30)


def test_plugin_without_a_port_observes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_SYNC_DASHBOARD", "0")
    registry = Observers([Dashboard], autoload=False, strict=True)
    assert registry.request_finished is None
    assert registry.close(30)


def test_every_hook_is_implemented_correctly() -> None:
    check_plugin(Dashboard(0))


@pytest.mark.parametrize(("value", "text"), [("page", "0, 1 or a port"), ("65536", "from 0 to 65535")])
def test_wrong_port_is_refused(value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_SYNC_DASHBOARD", value)
    with pytest.raises(ValueError, match=text):
        Dashboard()


def test_run_is_shown_while_it_runs(capfd: pytest.CaptureFixture[str]) -> None:
    plugin = Dashboard(0)
    datum = types.Datum(types.ModelInput.from_ints([97, 98, 99]), {"target_tokens": [98, 99, 100]})
    with ServiceClient(base_url="local", load_plugins=False, plugins=[plugin]) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=4)
        for _ in range(3):
            training.train_step([datum], "cross_entropy", types.AdamParams(1e-3))
        sampler = training.save_weights_and_get_sampling_client()
        sampler.sample(types.ModelInput.from_ints([97]), 1, types.SamplingParams(max_tokens=3))
        assert plugin.flush(time.monotonic() + 30)
        assert plugin.url is not None
        stream = Stream(plugin.url)
        stream.read()
        runs = [run for run in stream.read()[1] if run["session"] == service.session_id]
        stream.close()
    [run] = runs
    rows = {name: [row for _, row in table["rows"]] for name, table in run["tables"].items()}
    assert run["unusable"] == 0
    assert [row[3] for row in rows["metrics"] if row[2] == "forward_backward"] == [1, 2, 3]
    assert all(row[4]["loss"] > 0 for row in rows["metrics"] if row[2] == "forward_backward")
    assert [row[3] for row in rows["steps"]] == [1e-3] * 3
    assert rows["batches"][0][6][0][3] > 0
    assert {row[1] for row in rows["clients"]} == {"training", "sampling"}
    assert sum(row[COLUMNS.index("tokens")] for row in rows["intervals"]) == 3 * 3 + 1 + 3
    assert plugin.url in capfd.readouterr().err


def run_script(script: str, port: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which the environment variable of the plugin is set."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    variables = environment(TINKEX_SYNC_DASHBOARD=port)
    return subprocess.run(command, env=variables, check=True, timeout=60, capture_output=True, text=True)


def test_clients_of_a_process_share_one_page() -> None:
    done = run_script("from tinkex_sync_dashboard import Dashboard; assert Dashboard().url == Dashboard().url", "1")
    assert done.stderr.count("http://127.0.0.1:") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_child_has_its_own_page() -> None:
    script = (
        "import os\n"
        "from tinkex_sync_dashboard import Dashboard\n"
        "plugin = Dashboard()\n"
        "url = plugin.url\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(plugin.url == url)\n"
        "assert os.waitpid(child, 0)[1] == 0 and plugin.url == url\n"
    )
    assert run_script(script, "1").stderr.count("http://127.0.0.1:") == 2


def test_port_in_use_is_replaced_by_a_free_one(server: DashboardServer) -> None:
    port = str(server.server_address[1])
    done = run_script("from tinkex_sync_dashboard import Dashboard; print(Dashboard().url)", port)
    assert "is not available" in done.stderr
    assert done.stdout.startswith("http://127.0.0.1:")
    assert port not in done.stdout


def test_command_shows_a_recorded_run_until_it_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    with ServiceClient(base_url="local", load_plugins=False, plugins=[JsonLines(str(file))]) as service:
        service.get_server_capabilities()
    command = [sys.executable, "-m", "tinkex_sync", "dashboard", str(file)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        stream = Stream(process.stdout.readline().strip())
        stream.read()
        name, runs = stream.read()
        while name != "update" or not runs or runs[0]["ended"] is None:
            name, runs = stream.read()
        assert [run["origin"] for run in runs] == ["run.jsonl"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        stream.close()
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
