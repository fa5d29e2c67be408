"""Where a batch is divided into requests."""

from __future__ import annotations

from typing import Iterable, Iterator

from ..plugins.hookspecs import Boundary

__all__ = ["plan"]


def plan(sizes: Iterable[int], max_items: int = 1024, max_bytes: int = 5_000_000) -> Iterator[Boundary]:
    """Divide items into chunks, in order; ``sizes`` is drawn as chunks are asked for.

    A chunk ends before the item that would be its ``max_items + 1``-th or would take it over
    ``max_bytes``; an item larger than that is a chunk by itself. No items, no chunks.

    Args:
        sizes: Estimated bytes of each item, see ``byte_estimates``.
    """
    index = start = stop = filled = 0
    for size in sizes:
        if stop > start and (stop - start >= max_items or filled + size > max_bytes):
            yield Boundary(index, start, stop, filled)
            index, start, filled = index + 1, stop, 0
        stop += 1
        filled += size
    if stop > start:
        yield Boundary(index, start, stop, filled)
