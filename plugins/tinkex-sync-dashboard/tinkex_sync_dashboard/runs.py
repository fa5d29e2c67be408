"""Summaries of runs: what the page shows, computed from events, in bounded memory."""

from __future__ import annotations

import math
import threading
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from tinkex_sync import Config

from .tables import Table

__all__ = ["COLUMNS", "HOOKS", "Event", "Run", "Runs"]

#: One event: Unix time in seconds, name of the hook without ``tinkex_``, and its arguments.
Event = Tuple[float, str, Mapping[str, Any]]

#: The numbers of one interval. The last ones, from "waited" on, are largest values; all others are sums.
COLUMNS = (
    "calls",
    "finished",
    "failed",
    "requests",
    "retries",
    "sent_bytes",
    "received_bytes",
    "admitted",
    "throttled",
    "refused",
    "tokens",
    "waited",
    "waiting",
    "in_flight",
    "slot_limit",
    "bytes_in_flight",
    "byte_limit",
)
_CALLS, _FINISHED, _FAILED, _REQUESTS, _RETRIES, _SENT, _RECEIVED, _ADMITTED, _THROTTLED = range(9)
_REFUSED, _TOKENS, _WAITED, _WAITING, _IN_FLIGHT, _SLOT_LIMIT, _BYTES, _BYTE_LIMIT = range(9, 17)
#: Most intervals of a run. When it has more, pairs of intervals are merged.
_INTERVALS = 600
#: Most runs. When there are more, the one without events for the longest time is removed.
_RUNS = 50
#: Most chunks of a batch, and most metrics of a result, that are kept.
_CHUNKS = 200
_METRICS = 24
#: Longest text of an error, a reason or a name.
_LONGEST_TEXT = 300
_DEFAULTS = Config()


class Run:
    """The summary of one session. Not thread-safe: its owner holds a lock.

    Times in tables are seconds since ``started``. An event whose facts cannot be used is counted in ``unusable``:
    recorded files may come from other versions.

    Args:
        number: Identifies the run on its page.
        origin: Name of the file that the events come from; "" for this process.
        started: Unix time of the first event.
    """

    def __init__(self, number: int, origin: str, started: float) -> None:
        self.number = number
        self.origin = origin
        self.session = ""
        self.started = started
        self.last = started
        self.ended: Optional[float] = None
        self.events = 0
        self.unusable = 0
        self.width = 1.0
        self.tables = {
            "intervals": Table(_INTERVALS + 1),
            "states": Table(300),
            "backoffs": Table(300),
            "batches": Table(40),
            "steps": Table(2000, thins=True),
            "metrics": Table(4000, thins=True),
            "errors": Table(200),
            "clients": Table(200),
            "checkpoints": Table(200),
        }
        self._intervals = self.tables["intervals"]
        self._open_states: Dict[Any, int] = {}
        self._serial = 0
        self._permits: List[float] = [0, 0, 0]  # waiting, in flight, bytes in flight
        self._budget = 0.0
        self._index = -1
        self._row: List[float] = []
        self._counts: Dict[Tuple[str, str], int] = {}
        self._handlers: Dict[str, Callable[[float, Mapping[str, Any]], None]] = {
            hook: getattr(self, f"_on_{hook}") for hook in HOOKS
        }

    def add(self, time: float, hook: str, facts: Mapping[str, Any]) -> None:
        """Add one event."""
        self.events += 1
        handler = self._handlers.get(hook)
        if time > self.last:
            self.last = time
        if handler is None:
            return
        elapsed = max(0.0, time - self.started)
        index = int(elapsed / self.width)
        if index != self._index:
            self._open_interval(index)
        try:
            handler(elapsed, facts)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.unusable += 1

    def flush(self) -> None:
        """Report the current interval as changed."""
        if self._index >= 0:
            self._intervals.touch(self._index)

    def _open_interval(self, index: int) -> None:
        self.flush()
        while index >= _INTERVALS:
            self._merge_intervals()
            index //= 2
        self._index = index
        row = self._intervals.get(index)
        if row is None:
            row = [0] * len(COLUMNS)
            row[_WAITING], row[_IN_FLIGHT], row[_BYTES] = self._permits
            self._intervals.put(index, row)
        self._row = row

    def _merge_intervals(self) -> None:
        merged: Dict[int, List[float]] = {}
        for index, row in self._intervals.items():
            other = merged.setdefault(index // 2, [0] * len(COLUMNS))
            for column, value in enumerate(row):
                other[column] = max(other[column], value) if column >= _WAITED else other[column] + value
        self.width *= 2
        self._index //= 2
        self._intervals.clear()
        for index in sorted(merged):
            self._intervals.put(index, merged[index])

    def _add_row(self, table: str, row: List[Any]) -> None:
        self._serial += 1
        self.tables[table].put(self._serial, row)

    def _count(self, model: str, operation: str) -> int:
        number = self._counts[model, operation] = self._counts.get((model, operation), 0) + 1
        return number

    # Sessions, clients and checkpoints

    def _on_session_closed(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self.ended = elapsed
        for serial in self._open_states.values():
            self._end_state(serial, elapsed)
        self._open_states.clear()

    def _on_client_created(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        source = facts["source"]
        rank = facts["rank"] if isinstance(facts["rank"], int) else None
        row = [elapsed, source.kind, source.id, _text(facts["base_model"]), rank, _text(facts["model_path"])]
        self._add_row("clients", row)

    def _on_checkpoint_saved(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._add_row("checkpoints", [elapsed, _text(facts["path"]), _text(facts["kind"]), _number(facts["elapsed"])])

    # Calls, requests and errors

    def _on_call_started(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._row[_CALLS] += 1

    def _on_call_finished(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._row[_FINISHED] += 1
        operation, model, result = _text(facts["operation"]), facts["source"].id, facts["facts"]
        if facts["outcome"] != "ok":
            self._row[_FAILED] += 1
            self._error(elapsed, f"{operation} ({_text(facts['outcome'])})", facts["error"])
        for name in ("tokens", "prompt_tokens", "completion_tokens"):
            self._row[_TOKENS] += _number(result.get(name, 0))
        values = dict(result.get("metrics") or {})
        if result.get("loss") is not None:
            values = {"loss": result["loss"], **values}
        if values:
            number = result.get("step") or self._count(model, operation)
            chosen = {_text(name): _value(values[name]) for name in list(values)[:_METRICS]}
            self._add_row("metrics", [elapsed, model, operation, _number(number), chosen])

    def _on_request_finished(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        row = self._row
        row[_REQUESTS] += 1
        row[_SENT] += _number(facts["sent_bytes"])
        row[_RECEIVED] += _number(facts["received_bytes"])
        # A 402, a 408 or a 429 is part of a pause, which other tables show.
        if facts["error"] is not None and facts["status"] not in (402, 408, 429):
            self._error(elapsed, f"{facts['method']} {facts.get('route') or facts['path']}", facts["error"])

    def _on_retry_scheduled(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._row[_RETRIES] += 1

    def _on_heartbeat_missed(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._error(elapsed, "heartbeat", facts["error"])

    def _on_billing_paused(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._error(elapsed, "pause for lack of credit", facts["error"])

    def _error(self, elapsed: float, place: str, error: Any) -> None:
        kind, text = _describe(error)
        key = f"{place}|{kind}|{text}"
        row = self.tables["errors"].get(key)
        if row is None:
            self.tables["errors"].put(key, [elapsed, elapsed, 1, place, kind, text])
        else:
            row[1] = elapsed
            row[2] += 1
            self.tables["errors"].touch(key)

    # Throttling and queue states

    def _on_dispatch_acquired(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        row = self._row
        row[_ADMITTED] += 1
        if facts["throttled"]:
            row[_THROTTLED] += 1
            row[_SLOT_LIMIT] = _DEFAULTS.max_dispatches_after_backoff
        else:
            # No event states the limit. More samples in flight prove that it is larger than the default.
            row[_SLOT_LIMIT] = max(_DEFAULTS.max_dispatches, _number(facts["in_flight"]))
        row[_WAITED] = max(row[_WAITED], _number(facts["waited"]))
        self._set_permits(facts, _number(facts["charged_bytes"]))

    def _on_dispatch_released(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._set_permits(facts, 0)

    def _set_permits(self, facts: Mapping[str, Any], charged: float) -> None:
        left = _number(facts["bytes_left"])
        # No event states the byte budget. It is never less than this sum, and equal to it if no other sample is
        # in flight.
        self._budget = max(self._budget, left + charged)
        used = self._budget - left
        self._permits = [_number(facts["waiting"]), _number(facts["in_flight"]), used]
        row = self._row
        row[_BYTE_LIMIT] = self._budget
        for column, value in zip((_WAITING, _IN_FLIGHT, _BYTES), self._permits):
            if value > row[column]:
                row[column] = value

    def _on_backoff_started(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        self._row[_REFUSED] += 1
        end, everyone = elapsed + _number(facts["duration"]), bool(facts["everyone"])
        items = self.tables["backoffs"].items()
        # One row for windows that overlap: hundreds of samples may be refused together.
        if items and items[-1][1][2] == everyone and items[-1][1][1] >= elapsed:
            key, row = items[-1]
            row[1] = max(row[1], end)
            row[3] += 1
            self.tables["backoffs"].touch(key)
        else:
            self._add_row("backoffs", [elapsed, end, everyone, 1])

    def _on_queue_state_changed(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        source = facts["source"]
        previous = self._open_states.pop(source, None)
        if previous is not None:
            self._end_state(previous, elapsed)
        if facts["state"] != "active":
            began = elapsed if previous is not None else max(0.0, elapsed - _number(facts["waited"]))
            texts = [_text(facts[name]) for name in ("state", "reason", "reason_source")]
            self._add_row("states", [began, None, source.kind, source.id, *texts])
            self._open_states[source] = self._serial

    def _end_state(self, serial: int, elapsed: float) -> None:
        row = self.tables["states"].get(serial)
        if row is not None:
            row[1] = elapsed
            self.tables["states"].touch(serial)

    # Training

    def _on_chunks_planned(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        limits, boundaries = facts["limits"], facts["boundaries"]
        chunks = [[chunk.start, chunk.stop, chunk.estimated_bytes, None] for chunk in boundaries[:_CHUNKS]]
        sizes = [len(boundaries), limits.get("items"), limits.get("bytes")]
        row = [elapsed, _text(facts["operation"]), facts["source"].id, *sizes, chunks]
        self.tables["batches"].put(facts["call_id"], row)

    def _on_chunk_sent(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        row, index = self.tables["batches"].get(facts["call_id"]), facts["boundary"].index
        if row is not None and index < len(row[6]):
            row[6][index][3] = _number(facts["body_bytes"])
            self.tables["batches"].touch(facts["call_id"])

    def _on_adam_params_serialized(self, elapsed: float, facts: Mapping[str, Any]) -> None:
        payload, model = facts["payload"], facts["source"].id
        values = [_number(payload[name]) for name in ("learning_rate", "weight_decay", "grad_clip_norm")]
        self._add_row("steps", [elapsed, model, self._count(model, "step"), *values])


#: Hooks whose events change a summary, without ``tinkex_``.
HOOKS = frozenset(name[len("_on_") :] for name in vars(Run) if name.startswith("_on_"))


def _number(value: Any) -> float:
    """Return ``value`` if it is a finite number. JSON has no other numbers.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"not a finite number: {value!r:.100}")
    return value


def _value(value: Any) -> Optional[float]:
    """Return a metric; None, which is a gap in its curve, if it is not a finite number."""
    try:
        return _number(value)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:_LONGEST_TEXT]


def _describe(error: Any) -> Tuple[str, str]:
    """Return the type and the text of an error: an exception, or its form in a recorded file."""
    if isinstance(error, Mapping):
        return _text(error.get("type")), _text(error.get("message"))
    return ("", "") if error is None else (type(error).__name__, _text(error))


class Runs:
    """All runs that one page shows. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: Dict[Tuple[str, str], Run] = {}  # guarded by _changed
        self._created = 0  # guarded by _changed
        self._version = 0  # guarded by _changed

    def add(self, origin: str, events: Iterable[Event]) -> None:
        """Add events of one origin, oldest first.

        Args:
            origin: Name of the file that the events come from; "" for this process.
            events: The events.
        """
        with self._changed:
            touched = set()
            for time, hook, facts in events:
                key = (origin, facts["source"].session_id)
                run = self._runs.get(key)
                if run is None:
                    run = self._create(key, time)
                run.add(time, hook, facts)
                touched.add(run)
            for run in touched:
                run.flush()
            self._version += bool(touched)
            self._changed.notify_all()

    def _create(self, key: Tuple[str, str], time: float) -> Run:
        origin, session = key
        # Requests that open a session have no session yet. Their run becomes that of the session.
        run = self._runs.pop((origin, ""), None)
        if run is None:
            if len(self._runs) == _RUNS:
                del self._runs[min(self._runs, key=lambda key: self._runs[key].last)]
            self._created += 1
            run = Run(self._created, origin, time)
        run.session = session
        self._runs[key] = run
        return run

    def wait(self, version: int, seconds: float) -> int:
        """Wait until there is something newer than ``version``, for a limited time; return the version."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, seconds)
            return self._version

    def changes(self, known: Dict[str, int]) -> List[Dict[str, Any]]:
        """Return all that changed, and update ``known`` for the next call.

        Args:
            known: Versions of the tables that the reader knows; {} if it knows nothing.

        Returns:
            One item for each run, also for those without changes.
        """
        with self._changed:
            return [_run_changes(run, known) for run in self._runs.values()]


def _run_changes(run: Run, known: Dict[str, int]) -> Dict[str, Any]:
    tables = {}
    for name, table in run.tables.items():
        key = f"{run.number}/{name}"
        changes = table.changes(known.get(key, 0))
        if changes is not None:
            known[key] = table.version
            tables[name] = changes
    return {
        "run": run.number,
        "origin": run.origin,
        "session": run.session,
        "started": run.started,
        "last": run.last - run.started,
        "ended": run.ended,
        "events": run.events,
        "unusable": run.unusable,
        "width": run.width,
        "tables": tables,
    }
