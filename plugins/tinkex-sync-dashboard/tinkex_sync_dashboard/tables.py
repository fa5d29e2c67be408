"""Bounded tables whose changes can be read from any point in time."""

from __future__ import annotations

from typing import Any, Dict, Hashable, List, Optional, Tuple

__all__ = ["Table"]


class Table:
    """Rows in the order of their first appearance, at most ``limit`` of them.

    Not thread-safe: its owner holds a lock.

    Args:
        limit: Largest number of rows.
        thins: True: a full table removes every second row, so that a curve keeps its beginning. False: it removes the
            oldest row.
    """

    def __init__(self, limit: int, thins: bool = False) -> None:
        self.limit = limit
        self.version = 0
        self._thins = thins
        self._cleared = 0  # the version at which rows were last removed in other than their order
        self._rows: Dict[Hashable, Tuple[int, Any]] = {}

    def put(self, key: Hashable, row: Any) -> None:
        """Add a row, or replace the row of the same key."""
        self.version += 1
        self._rows[key] = (self.version, row)
        if len(self._rows) <= self.limit:
            return
        if self._thins:
            # From the end, so that the newest row stays.
            for old in list(self._rows)[-2::-2]:
                del self._rows[old]
            self._cleared = self.version
        else:
            del self._rows[next(iter(self._rows))]

    def get(self, key: Hashable) -> Optional[Any]:
        """Return the row of a key, or None."""
        entry = self._rows.get(key)
        return None if entry is None else entry[1]

    def touch(self, key: Hashable) -> None:
        """Report a row as changed after it was modified in place."""
        self.version += 1
        self._rows[key] = (self.version, self._rows[key][1])

    def items(self) -> List[Tuple[Any, Any]]:
        """Return all keys and rows, oldest first."""
        return [(key, row) for key, (_, row) in self._rows.items()]

    def rows(self) -> List[Any]:
        """Return all rows, oldest first."""
        return [row for _, row in self._rows.values()]

    def clear(self) -> None:
        """Remove all rows, also for readers that have some of them."""
        self.version += 1
        self._cleared = self.version
        self._rows.clear()

    def changes(self, since: int) -> Optional[Dict[str, Any]]:
        """Return the rows changed after version ``since``; None if there are none.

        Args:
            since: The version up to which the reader knows the table. 0 if it knows nothing.

        Returns:
            ``limit``; ``reset``, which is True if the reader must remove its rows first; and ``rows`` as pairs of key
            and row.
        """
        if since == self.version:
            return None
        reset = since < self._cleared or not since
        rows = [[key, row] for key, (version, row) in self._rows.items() if reset or version > since]
        return {"limit": self.limit, "reset": reset, "rows": rows}
