"""The command ``tinkex-sync events FILE``, which summarises a file of the plugin."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import click

from tinkex_sync import hookimpl

__all__ = ["events", "summarise", "tinkex_register_commands"]

Row = Dict[str, Any]
Section = Tuple[str, Tuple[str, ...], List[Row]]


def read_events(path: Path) -> Iterator[Row]:
    """Yield the events of a file in their order. The last line may be incomplete while a run writes it.

    Raises:
        click.ClickException: A line is not an event.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "hook" not in event:
                raise ValueError("it has no hook")
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                return
            raise click.ClickException(f"{path}:{number}: not an event of tinkex-sync-jsonl: {error}") from None
        yield event


def summarise(path: Path) -> Dict[str, List[Row]]:
    """Return the sections of a summary: each a list of rows with the same keys."""
    summary = _Summary()
    for event in read_events(path):
        handler = getattr(summary, event["hook"], None)
        if handler is not None:
            handler(event)
    return summary.sections()


class _Summary:
    """Adds up the events of one run, or of several in one file. One method per hook."""

    def __init__(self) -> None:
        self._calls: Dict[Tuple[str, str], List[float]] = defaultdict(list)
        self._tokens: Counter[str] = Counter()
        self._requests: Counter[Tuple[str, str]] = Counter()
        self._retries: Counter[Tuple[str, str]] = Counter()
        self._delays: Dict[Tuple[str, str], float] = defaultdict(float)
        self._waiting: Dict[str, Tuple[str, str, float]] = {}
        self._paused: Dict[Tuple[str, str, str], float] = defaultdict(float)
        self._limits: Dict[str, float] = {}
        self._chunks: List[Tuple[int, float, float]] = []
        self._steps: Dict[str, List[float]] = defaultdict(list)

    def call_finished(self, event: Row) -> None:
        facts = event.get("facts", {})
        self._calls[event["operation"], event["outcome"]].append(float(event["elapsed"]))
        self._tokens.update(
            {name: facts[name] for name in ("prompt_tokens", "completion_tokens", "tokens") if name in facts}
        )
        if "loss" in facts:
            self._steps["loss"].append(float(facts["loss"]))

    def request_finished(self, event: Row) -> None:
        error = event["error"] or {}
        self._requests[str(event["route"]), str(event["status"] or error.get("type"))] += 1

    def retry_scheduled(self, event: Row) -> None:
        key = event["policy"], event["cause"]["type"]
        self._retries[key] += 1
        self._delays[key] += float(event["delay"])

    def queue_state_changed(self, event: Row) -> None:
        self._count_wait(event)
        if event["state"] != "active":
            self._waiting[event["source"]["id"]] = event["state"], event["reason"] or "", float(event["waited"])

    def queue_state_repeated(self, event: Row) -> None:
        state, reason = self._count_wait(event)
        self._waiting[event["source"]["id"]] = state, reason, float(event["waited"])

    def _count_wait(self, event: Row) -> Tuple[str, str]:
        source = event["source"]
        state, reason, counted = self._waiting.pop(source["id"], (event["state"], event["reason"] or "", 0.0))
        if state != "active":
            self._paused[source["kind"], state, reason] += max(float(event["waited"]) - counted, 0.0)
        return state, reason

    def chunks_planned(self, event: Row) -> None:
        self._limits = event["limits"]

    def chunk_sent(self, event: Row) -> None:
        boundary = event["boundary"]
        self._chunks.append((boundary["stop"] - boundary["start"], boundary["estimated_bytes"], event["body_bytes"]))

    def adam_params_serialized(self, event: Row) -> None:
        for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
            if name in event["payload"]:
                self._steps[name].append(float(event["payload"][name]))

    def sections(self) -> Dict[str, List[Row]]:
        """Return all sections that have a row."""
        found: Dict[str, List[Row]] = {
            "calls": [
                {
                    "operation": key[0],
                    "outcome": key[1],
                    "calls": len(times),
                    "mean": _mean(times),
                    "seconds": sum(times),
                }
                for key, times in sorted(self._calls.items())
            ],
            "requests": [
                {"route": route, "status": status, "requests": count}
                for (route, status), count in sorted(self._requests.items())
            ],
            "retries": [
                {"policy": policy, "cause": cause, "retries": count, "seconds": self._delays[policy, cause]}
                for (policy, cause), count in sorted(self._retries.items())
            ],
            "queue_states": [
                {"client": kind, "state": state, "reason": reason, "seconds": seconds}
                for (kind, state, reason), seconds in sorted(self._paused.items())
            ],
            "tokens": [{"kind": kind, "tokens": count} for kind, count in sorted(self._tokens.items()) if count],
            "chunks": self._chunk_rows(),
            "steps": [_step_row(name, values) for name, values in self._steps.items()],
        }
        return {name: rows for name, rows in found.items() if rows}

    def _chunk_rows(self) -> List[Row]:
        if not self._chunks:
            return []
        datums, estimated, actual = (list(map(float, column)) for column in zip(*self._chunks))
        limits = self._limits
        return [
            {
                "chunks": len(datums),
                "mean_datums": _mean(datums),
                "datums_of_limit": _mean(datums) / limits["items"] if limits.get("items") else None,
                "bytes_of_limit": _mean(estimated) / limits["bytes"] if limits.get("bytes") else None,
                "estimated_to_actual": sum(estimated) / sum(actual) if sum(actual) else None,
            }
        ]


def _step_row(name: str, values: List[float]) -> Row:
    ends = {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
    return {"value": name, "steps": len(values), **ends}


def _mean(values: List[float]) -> float:
    return sum(values) / len(values)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-f", "--format", "form", type=click.Choice(["table", "json"]), default="table", help="Default: table.")
def events(file: Path, form: str) -> None:
    """Summarise a FILE that the plugin tinkex-sync-jsonl has written.

    Calls by outcome, requests, retries, time per queue state and reason, tokens, how full the chunks were, and loss and
    optimizer parameters over the steps. Times are in seconds.
    """
    found = summarise(file)
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo(f"{file} has no event to summarise.")
    for name, rows in found.items():
        cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        click.echo(f"{name}:")
        for line in cells:
            click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


@hookimpl
def tinkex_register_commands(cli: Any) -> None:
    """Add the command."""
    cli.add_command(events)
