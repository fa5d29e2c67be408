"""Format sizes and times for tables."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional, Union

__all__ = ["format_size", "format_time"]


def format_size(size: int) -> str:
    """Format a number of bytes with the largest fitting unit of 1,024, such as ``1.5 KB``.

    A negative number means that the size is unknown and gives ``N/A``.
    """
    if size < 0:
        return "N/A"
    if size < 1024:
        return f"{size} B"
    units = ("KB", "MB", "GB", "TB", "PB", "EB")
    scaled, unit = size / 1024, 0
    while scaled >= 1024 and unit < len(units) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.1f} {units[unit]}"


def _time_ago(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def format_time(moment: Union[None, str, datetime], now: Optional[datetime] = None) -> str:
    """Format a time as the time since then, such as ``2 hours ago``, or as a date after 30 days.

    Args:
        moment: A time, or its ISO 8601 text. Without a zone it is UTC. None gives ``N/A``; a text that is not a time
            is returned unchanged.
        now: The present time. Default: the clock of this machine.
    """
    if not moment:
        return "N/A"
    if isinstance(moment, str):
        try:
            # Python before 3.11 does not read the trailing Z.
            moment = datetime.fromisoformat(moment[:-1] + "+00:00" if moment.endswith("Z") else moment)
        except ValueError:
            return str(moment)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    passed = (now or datetime.now(timezone.utc)) - moment
    if passed.days > 30:
        return moment.strftime("%Y-%m-%d")
    if passed.days > 7:
        return _time_ago(passed.days // 7, "week")
    if passed.days > 0:
        return _time_ago(passed.days, "day")
    # For a time in the future this counts from the day before it, as the official client does.
    if passed.seconds >= 3600:
        return _time_ago(passed.seconds // 3600, "hour")
    if passed.seconds > 60:
        return _time_ago(passed.seconds // 60, "minute")
    return "just now"
