"""Draw a curve with characters."""

from __future__ import annotations

from typing import List, Sequence

__all__ = ["draw_chart"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def draw_chart(
    values: Sequence[float], width: int = 60, height: int = 10, unicode: bool = True, complete: float = 1.0
) -> str:
    """Draw values as columns over a line at zero and return ``height`` + 1 lines.

    Args:
        values: Numbers that are at least 0.
        width: Number of columns of the complete curve. A longer series is averaged.
        unicode: Whether block characters may be used. Otherwise the chart is ASCII.
        complete: The fraction of the complete curve that ``values`` are. They fill this fraction of the width.
    """
    columns = max(1, min(width, round(width * complete)))
    bars = _average_into(values, min(columns, len(values)))
    bars = [bars[index * len(bars) // columns] for index in range(columns)] if bars else []
    top = max(bars, default=0.0) or 1.0
    full, partial = ("█", _EIGHTHS) if unicode else ("#", " ..::||##")
    lines: List[str] = []
    for line in range(height, 0, -1):
        cells = []
        for value in bars:
            eighths = round(value / top * height * 8) - (line - 1) * 8
            cells.append(full if eighths >= 8 else partial[max(eighths, 0)])
        label = f"{top * line / height:5.2f}" if line == height or line == (height + 1) // 2 else ""
        lines.append(f"{label:>6} {'│' if unicode else '|'}{''.join(cells)}".rstrip())
    corner, dash = ("└", "─") if unicode else ("+", "-")
    lines.append(f"{0:6.2f} {corner}{dash * width}")
    return "\n".join(lines)


def _average_into(values: Sequence[float], count: int) -> List[float]:
    """Return the means of ``count`` equal parts of the values."""
    means = []
    for index in range(count):
        part = values[index * len(values) // count : (index + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    return means
