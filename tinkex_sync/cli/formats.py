"""Sizes and times for people."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional, Union

__all__ = ["format_size", "format_time"]


def format_size(size: int) -> str:
    """Bytes with the largest fitting unit of 1,024, such as ``1.5 KB``; ``N/A`` if negative."""
    if size < 0:
        return "N/A"
    if size < 1024:
        return f"{size} B"
    units = ("KB", "MB", "GB", "TB", "PB", "EB")
    scaled, unit = size / 1024, 0
    while scaled >= 1024 and unit < len(units) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.1f} {units[unit]}"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def format_time(moment: Union[None, str, datetime], now: Optional[datetime] = None) -> str:
    """How long ago that was, its date if over 30 days; ``N/A`` for none, a text that is no time as it is.

    A time without a zone is UTC.
    """
    if not moment:
        return "N/A"
    if isinstance(moment, str):
        try:
            # Before 3.11 the trailing Z is not understood.
            moment = datetime.fromisoformat(moment[:-1] + "+00:00" if moment.endswith("Z") else moment)
        except ValueError:
            return str(moment)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    passed = (now or datetime.now(timezone.utc)) - moment
    if passed.days > 30:
        return moment.strftime("%Y-%m-%d")
    if passed.days > 7:
        return _count(passed.days // 7, "week")
    if passed.days > 0:
        return _count(passed.days, "day")
    # For a time ahead of our clock this counts from the day before it, as the official client does.
    if passed.seconds >= 3600:
        return _count(passed.seconds // 3600, "hour")
    if passed.seconds > 60:
        return _count(passed.seconds // 60, "minute")
    return "just now"
