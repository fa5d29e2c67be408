"""Select the examples of each training step."""

from __future__ import annotations

import random
from array import array
from typing import Any, List, MutableSequence, cast

__all__ = ["Batches"]


class Batches:
    """Batches of examples. Every epoch contains all examples, in an order of its own.

    The order depends only on the seed and the epoch, so a resumed run selects the same examples. The last batch of an
    epoch may be smaller.

    Args:
        num_examples: Number of examples.
        size: Number of examples of a batch.
    """

    def __init__(self, num_examples: int, size: int, seed: int) -> None:
        self._num_examples = num_examples
        self._size = size
        self._seed = seed
        self._epoch = -1
        # A list of numbers would need four times the memory.
        self._order = array("q")
        #: Number of steps of an epoch.
        self.per_epoch = -(-num_examples // size)

    def indices(self, step: int) -> List[int]:
        """Return the indices of the examples of a step, which is counted from 0."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, array("q", range(self._num_examples))
            random.Random(f"{self._seed} {epoch}").shuffle(cast(MutableSequence[Any], self._order))
        return list(self._order[position * self._size : (position + 1) * self._size])
