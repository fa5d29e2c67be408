"""A curve in characters."""

from __future__ import annotations

from typing import List, Sequence

__all__ = ["chart"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def chart(
    values: Sequence[float], width: int = 60, height: int = 10, unicode: bool = True, complete: float = 1.0
) -> str:
    """``values`` as columns over a line at zero, in ``height`` + 1 lines.

    Args:
        values: Not negative.
        width: Columns for the whole curve; longer series are averaged.
        unicode: False: in ASCII.
        complete: The part of the whole that ``values`` are so far; they take that part of the width.
    """
    columns = max(1, min(width, round(width * complete)))
    heights = _averaged(values, min(columns, len(values)))
    heights = [heights[index * len(heights) // columns] for index in range(columns)] if heights else []
    top = max(heights, default=0.0) or 1.0
    full, partial = ("█", _EIGHTHS) if unicode else ("#", " ..::||##")
    lines: List[str] = []
    for line in range(height, 0, -1):
        cells = []
        for value in heights:
            eighths = round(value / top * height * 8) - (line - 1) * 8
            cells.append(full if eighths >= 8 else partial[max(eighths, 0)])
        label = f"{top * line / height:5.2f}" if line == height or line == (height + 1) // 2 else ""
        lines.append(f"{label:>6} {'│' if unicode else '|'}{''.join(cells)}".rstrip())
    corner, dash = ("└", "─") if unicode else ("+", "-")
    lines.append(f"{0:6.2f} {corner}{dash * width}")
    return "\n".join(lines)


def _averaged(values: Sequence[float], bins: int) -> List[float]:
    means = []
    for index in range(bins):
        part = values[index * len(values) // bins : (index + 1) * len(values) // bins]
        means.append(sum(part) / len(part))
    return means
