"""Cut a text into training examples."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Iterator, List, Sequence

if TYPE_CHECKING:
    from ...types import Datum

__all__ = ["next_token_datum", "random_windows"]

#: The smallest number of predicted tokens of a window. Shorter windows teach next to nothing.
_SHORTEST = 8


def next_token_datum(tokens: Sequence[int]) -> Datum:
    """Return a training example that predicts each token from the tokens before it, with weight 1.

    Args:
        tokens: At least two tokens.
    """
    from ...types import Datum, ModelInput, TensorData

    return Datum(
        model_input=ModelInput.from_ints(list(tokens[:-1])),
        loss_fn_inputs={
            "target_tokens": TensorData(data=list(tokens[1:]), dtype="int64"),
            "weights": TensorData(data=[1.0] * (len(tokens) - 1), dtype="float32"),
        },
    )


def random_windows(tokens: Sequence[int], size: int, generator: random.Random) -> Iterator[List[int]]:
    """Yield windows of ``size`` + 1 tokens in random order, without end.

    Every round over the tokens covers all of them and starts its windows at other places.
    """
    while True:
        first = generator.randrange(size) - size
        starts = list(range(first, len(tokens) - 1, size))
        generator.shuffle(starts)
        for start in starts:
            # One token more than the size, because the last one is only a target.
            window = list(tokens[max(start, 0) : start + size + 1])
            if len(window) > min(_SHORTEST, len(tokens) - 1):
                yield window
