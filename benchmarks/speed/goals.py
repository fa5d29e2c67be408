"""The goals of the benchmark: ratios and limits that the page shows beside their measured values."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .jobs import NEW, OLD, OURS
from .results import Spread, figure, number, ratio


class Goal(NamedTuple):
    """A limit for a figure of ``client``, or for its ratio to the same figure of ``other``."""

    text: str
    part: str
    row: str
    name: str
    client: str
    limit: float
    other: Optional[str] = None
    other_row: Optional[str] = None
    #: The limit is a lower one.
    at_least: bool = False

    def measured(self, results: Dict[str, Any]) -> Optional[Spread]:
        runs = results.get(self.part, {}).get("runs", [])
        if self.other:
            return ratio(runs, self.row, self.name, [self.client, self.other], self.other_row)
        return figure(runs, self.row, self.client, self.name)


_FAST, _SLOW = "2000 samples at once, results after 0 ms", "2000 samples at once, results after 1000 ms"
_LISTS, _ARRAYS = "1024 x 1000, lists", "64 x 32000, arrays"
_PROTOBUF, _JSON = "ours protobuf", "ours JSON"

GOALS: List[Goal] = [
    Goal("CPU, multiple of the bare adapter (16 threads)", "samples", _FAST, "cpu", OURS, 1.4, "adapter 16"),
    Goal("CPU of 0.7.0, multiple of ours", "samples", _FAST, "cpu", OLD, 6, OURS, at_least=True),
    Goal("CPU of 0.38.0, multiple of ours", "samples", _FAST, "cpu", NEW, 4, OURS, at_least=True),
    Goal("samples/s, multiple of 0.7.0", "samples", _FAST, "rate", OURS, 5, OLD, at_least=True),
    Goal("samples/s, multiple of 0.38.0", "samples", _FAST, "rate", OURS, 3, NEW, at_least=True),
    Goal("seconds", "samples", _SLOW, "wall", OURS, 3.0),
    Goal("CPU per sample, ms", "samples", "one caller, 400 samples", "cpu_ms", OURS, 0.9),
    Goal("protobuf: CPU, multiple of 0.38.0", "training", _LISTS, "cpu", _PROTOBUF, 1.0, NEW),
    Goal("JSON: CPU, multiple of bare orjson", "training", _LISTS, "cpu", _JSON, 1.3, "orjson"),
    Goal("protobuf: CPU, multiple of 0.38.0", "training", _ARRAYS, "cpu", _PROTOBUF, 1.0, NEW),
    Goal("protobuf: growth of memory, MiB", "training", _ARRAYS, "growth", _PROTOBUF, 70),
    Goal("JSON: CPU, multiple of bare orjson", "training", _ARRAYS, "cpu", _JSON, 1.3, "orjson"),
    Goal("JSON: growth of memory, MiB", "training", _ARRAYS, "growth", _JSON, 90),
    Goal("CPU, multiple of the dependencies", "import", "import", "cpu", OURS, 1.25, "dependencies"),
    Goal("installed with dependencies, MiB", "size", "size", "size", OURS, 9),
    Goal("TLS: CPU, multiple of plain HTTP", "tls", "2000 samples at once, TLS", "cpu", OURS, 1.3, OURS,
         "2000 samples at once"),
    Goal("TLS: CPU, multiple of plain HTTP", "tls", "1000 samples of 256 threads, TLS", "cpu", OURS, 1.3, OURS,
         "1000 samples of 256 threads"),
    Goal("2000 samples, 1000 long polls at once: growth of memory, MiB", "scale", "polls", "growth", OURS, 100),
    Goal("planning: CPU seconds per million datums", "scale", "plan 1000000", "seconds_per_million", OURS, 1.0),
    Goal("heartbeats during 50 MB of protobuf: p99 later by ms", "scale", "heartbeats protobuf", "later_ms", OURS, 20),
    Goal("heartbeats during 50 MB of JSON: p99 later by ms", "scale", "heartbeats JSON", "later_ms", OURS, 20),
    *(
        Goal("rate/s, depth, response: x ideal", "backpressure", f"{rate} {depth} 0", "over", OURS, most)
        for rate in (10, 50, 500)
        for depth, most in ((5, 1.5), (50, 1.15))
    ),
]  # fmt: skip


def goal_rows(results: Dict[str, Any]) -> List[Tuple[str, ...]]:
    """Return the rows of the table of goals: work, figure, limit, measured, whether it holds."""
    rows = []
    for goal in GOALS:
        measured = goal.measured(results)
        if measured is None:
            continue
        holds = measured.median >= goal.limit if goal.at_least else measured.median <= goal.limit
        limit = f"at {'least' if goal.at_least else 'most'} {number(goal.limit)}"
        rows.append((goal.row, goal.text, limit, str(measured), "yes" if holds else "**no**"))
    return rows
