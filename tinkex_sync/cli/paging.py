"""Listings in pages."""

from __future__ import annotations

from typing import Any, Callable, List, Tuple

__all__ = ["collect", "counted", "not_shown"]


def collect(fetch: Callable[[int, int], Any], field: str, limit: int, page: int) -> Tuple[List[Any], int]:
    """Up to ``limit`` items (all of them for 0 or less), and how many there are in all.

    Args:
        fetch: Given limit and offset, the answer with one page.
        field: Its attribute that holds the items.
        page: Most items to ask for at once.
    """
    answer = fetch(min(page, limit) if limit > 0 else page, 0)
    items: List[Any] = list(getattr(answer, field))
    cursor = getattr(answer, "cursor", None)
    total = len(items) if cursor is None else cursor.total_count
    target = min(limit, total) if limit > 0 else total
    while len(items) < target:
        wanted = min(page, target - len(items))
        more = getattr(fetch(wanted, len(items)), field)
        items.extend(more)
        if len(more) < wanted:
            break
    return items, max(total, len(items))


def counted(number: int, noun: str) -> str:
    """``2 checkpoints``, ``1 checkpoint``, ``No checkpoints found``."""
    if number == 0:
        return f"No {noun}s found"
    return f"{number} {noun}{'' if number == 1 else 's'}"


def not_shown(shown: int, total: int) -> str:
    """What to add to a title where there is more than is shown."""
    return f" ({total - shown} more not shown, use --limit to see more)" if total > shown else ""
