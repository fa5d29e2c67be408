"""Division of a batch into chunks, by number of datums and estimated bytes."""

from __future__ import annotations

from typing import Iterable, Iterator

from ..plugins.events import Boundary


def plan(sizes: Iterable[int], max_items: int = 1024, max_bytes: int = 5_000_000) -> Iterator[Boundary]:
    """Divide items into chunks, in order. ``sizes`` is read lazily, one item ahead of the chunk.

    A chunk ends before an item with which it would exceed ``max_items`` or ``max_bytes``. An item that is larger than
    ``max_bytes`` is a chunk of its own.

    Args:
        sizes: Estimated bytes of each item; see :mod:`tinkex_sync.protocol.byte_estimates`.
        max_items: Items of one chunk at most.
        max_bytes: Estimated bytes of one chunk at most.

    Returns:
        The boundaries of the chunks; none if there are no items.
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
