"""Plots as SVG: lines or dots over a logarithmic or linear axis, and horizontal bars."""

from __future__ import annotations

import math
from html import escape
from typing import Callable, Dict, List, Sequence, Tuple

_COLORS = ("#1f6feb", "#d1242f", "#9a6700", "#1a7f37", "#8250df")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 340, 80, 150, 40, 50
Points = Sequence[Tuple[float, float]]


def _text(x: float, y: float, text: str, anchor: str = "start", **more: object) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>{escape(text)}</text>'


def _document(height: float, title: str, parts: List[str]) -> str:
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}" font-family="sans-serif" font-size="12" fill="#24292f">'
    )
    background = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    return (
        "\n".join([start, background, _text(_LEFT, 22, title, font_weight="bold", font_size=14), *parts, "</svg>"])
        + "\n"
    )


def bars(title: str, values: List[Tuple[str, float]]) -> str:
    """Return a plot of one horizontal bar per label."""
    most = max(value for _, value in values)
    parts = []
    for index, (label, value) in enumerate(values):
        y, width = 40 + 28 * index, (_WIDTH - 260) * value / most
        color = _COLORS[0] if label.startswith("tinkex_sync") else "#8c959f"
        parts.append(_text(170, y + 15, label, "end"))
        parts.append(f'<rect x="180" y="{y}" width="{width:.1f}" height="20" fill="{color}"/>')
        parts.append(_text(186 + width, y + 15, f"{value:.3g}"))
    return _document(50 + 28 * len(values), title, parts)


def _ticks(least: float, most: float, is_log: bool) -> List[float]:
    if is_log:
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        return [factor * 10.0**power for power in powers for factor in ((1, 2, 5) if len(powers) < 4 else (1,))]
    step = 10 ** math.floor(math.log10(most or 1))
    step = next(step / part for part in (1, 2, 5, 10) if most / (step / part) >= 3)
    return [step * index for index in range(math.ceil(most / step) + 1)]


def _scale(values: List[float], is_log: bool, low: float, high: float) -> Tuple[List[float], Callable[[float], float]]:
    """Return the ticks of an axis, and the function from a value to its place between ``low`` and ``high``."""
    change: Callable[[float], float] = math.log10 if is_log else float
    ticks = _ticks(min(values), max(values), is_log)
    first, last = change(min(values) if is_log else 0.0), change(max(max(values), 0 if is_log else ticks[-1]))
    span = last - first or 1.0
    inside = [tick for tick in ticks if first - 1e-9 <= change(tick) <= last + 1e-9]
    return inside, lambda value: low + (change(value) - first) / span * (high - low)


def plot(title: str, axes: Tuple[str, str], series: Dict[str, Points], log: str = "x", dots: bool = False) -> str:
    """Return a plot of series of points; ``log`` names the logarithmic axes, such as "xy"."""
    points = [point for one in series.values() for point in one]
    x_ticks, x_place = _scale([x for x, _ in points], "x" in log, _LEFT, _WIDTH - _RIGHT)
    y_ticks, y_place = _scale([y for _, y in points], "y" in log, _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in y_ticks:
        y = y_place(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        parts.append(_text(x_place(tick), _HEIGHT - _BOTTOM + 18, f"{tick:,.0f}", "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, axes[0], "middle"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(_text(18, middle, axes[1], "middle", transform=f"rotate(-90 18 {middle:.0f})"))
    for index, (name, one) in enumerate(series.items()):
        color, y = _COLORS[index % len(_COLORS)], _TOP + 12 + 20 * index
        places = [(x_place(x), y_place(value)) for x, value in one]
        if not dots:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
        parts.append(f'<circle cx="{_WIDTH - _RIGHT + 16}" cy="{y - 4}" r="4" fill="{color}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 26, y, name))
    return _document(_HEIGHT, title, parts)
