"""Read listings page by page, and describe how much of them is shown."""

from __future__ import annotations

from typing import Any, Callable, List, Tuple

__all__ = ["collect", "count_text", "hidden_count_text"]


def collect(fetch: Callable[[int, int], Any], field: str, limit: int, page_size: int) -> Tuple[List[Any], int]:
    """Read items of a listing and return them with the total number of items.

    Args:
        fetch: Returns the response with one page. Its arguments are the page's limit and offset.
        field: The attribute of the response that contains the items.
        limit: The largest number of items to read. 0 or less means all of them.
        page_size: The largest number of items for one request.
    """
    response = fetch(min(page_size, limit) if limit > 0 else page_size, 0)
    items: List[Any] = list(getattr(response, field))
    cursor = getattr(response, "cursor", None)
    total = len(items) if cursor is None else cursor.total_count
    target = min(limit, total) if limit > 0 else total
    while len(items) < target:
        requested = min(page_size, target - len(items))
        page = getattr(fetch(requested, len(items)), field)
        items.extend(page)
        if len(page) < requested:
            break
    return items, max(total, len(items))


def count_text(number: int, noun: str) -> str:
    """Return a title such as ``2 checkpoints``, ``1 checkpoint`` or ``No checkpoints found``."""
    if number == 0:
        return f"No {noun}s found"
    return f"{number} {noun}{'' if number == 1 else 's'}"


def hidden_count_text(shown: int, total: int) -> str:
    """Return the end of a title that names the number of items that are not shown, or an empty text."""
    return f" ({total - shown} more not shown, use --limit to see more)" if total > shown else ""
