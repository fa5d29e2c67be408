"""Medians, spreads and ratios of recorded figures."""

from __future__ import annotations

import statistics
from typing import Any, Dict, List, NamedTuple, Optional

Run = Dict[str, Any]


class Spread(NamedTuple):
    """The median of repetitions, the least and the greatest."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)}-{number(self.most)})"


def number(value: float) -> str:
    """Format a number with three digits."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2}f}"


def spread(values: List[float]) -> Optional[Spread]:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def figure(runs: List[Run], row: str, client: str, name: str) -> Optional[Spread]:
    """Return a figure of one row and client; None if no repetition has it."""
    return spread([run[name] for run in runs if run["row"] == row and run["client"] == client and name in run])


def ratio(
    runs: List[Run], row: str, name: str, clients: List[str], other_row: Optional[str] = None
) -> Optional[Spread]:
    """Return the ratio of two clients (or of two rows) of one repetition each: median and spread over repetitions."""
    first, second = clients
    above = {run["repetition"]: run for run in runs if run["row"] == row and run["client"] == first}
    below = {run["repetition"]: run for run in runs if run["row"] == (other_row or row) and run["client"] == second}
    return spread(
        [
            above[key][name] / below[key][name]
            for key in sorted(set(above) & set(below))
            if name in above[key] and below[key].get(name)
        ]
    )
