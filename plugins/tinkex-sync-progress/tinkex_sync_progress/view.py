"""One frame of the view: a table of a few lines."""

from __future__ import annotations

import math
from typing import List, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from .state import Snapshot

__all__ = ["frame", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Return a bar per value, from the lowest to the highest. A value that is not finite is a dot."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "·" * len(values)
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else "·" for value in values)


def _time(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "none"


def frame(state: Snapshot) -> Table:
    """Return the table for a moment of the run."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("tinkex_sync", Text(f"{_time(state.elapsed)}, ended: {_counts(state.finished)}"))
    table.add_row("running", Text(_counts(state.running)))
    rates: List[str] = []
    if state.samples_per_second:
        rates.append(f"{state.samples_per_second:,.1f} samples/s")
    if state.tokens_per_second:
        rates.append(f"{state.tokens_per_second:,.0f} tokens/s")
    if rates:
        table.add_row("rate", Text(", ".join(rates)))
    if state.in_flight or state.waiting or state.backoffs:
        text = f"{state.in_flight:,} samples being sent, {state.waiting:,} wait"
        if state.backoffs:
            text += f", {state.backoffs:,} backoffs of {state.backoff_seconds:,.1f} s"
        table.add_row("throttle", Text(text))
    for pause in state.pauses:
        reason = f": {pause.reason}" if pause.reason else ""
        table.add_row(
            "queue", Text(f"{pause.kind} {pause.state} for {_time(state.now - pause.since)}{reason}", style="yellow")
        )
    if state.losses:
        text = f"{state.losses[-1]:.4g} {sparkline(state.losses)}"
        if state.step is not None:
            text += f" step {state.step}"
        if state.learning_rate is not None:
            text += f", learning rate {state.learning_rate:g}"
        table.add_row("loss", Text(text))
    return table
