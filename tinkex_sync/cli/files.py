"""Text files, and training examples cut out of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Sequence

from .output import CommandError

if TYPE_CHECKING:
    from ..types import Datum

__all__ = ["example", "read_text", "windows"]

#: A last window shorter than this teaches next to nothing.
_SHORTEST = 8


def read_text(path: Path) -> str:
    """A UTF-8 file.

    Raises:
        CommandError: it cannot be read, is empty or is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", "Give the path of a text file.") from None
    if not content.strip():
        raise CommandError(f"{path} is empty", "Give a file with some text in it.")
    try:
        if b"\0" in content:
            raise ValueError(f"a zero byte at position {content.index(0)}")
        return content.decode("utf-8-sig")
    except ValueError as error:
        raise CommandError(
            f"{path} is not a text file: {error}", "Give a file of plain text, encoded as UTF-8."
        ) from None


def example(tokens: Sequence[int], trained: Sequence[float]) -> Datum:
    """A training example that predicts each token from those before it.

    Args:
        tokens: At least two.
        trained: The weight of each token in the loss; the first cannot be predicted, so its is not used.
    """
    from ..types import Datum, ModelInput, TensorData

    return Datum(
        model_input=ModelInput.from_ints(list(tokens[:-1])),
        loss_fn_inputs={
            "target_tokens": TensorData(data=list(tokens[1:]), dtype="int64"),
            "weights": TensorData(data=list(trained[1:]), dtype="float32"),
        },
    )


def windows(tokens: Sequence[int], size: int, chance: random.Random) -> Iterator[List[int]]:
    """Windows of ``size`` tokens in random order, for ever; each round is cut elsewhere and covers all tokens."""
    while True:
        first = chance.randrange(size) - size
        starts = list(range(first, len(tokens) - 1, size))
        chance.shuffle(starts)
        for start in starts:
            # One more than its size, as the last is only a target.
            window = list(tokens[max(start, 0) : start + size + 1])
            if len(window) > min(_SHORTEST, len(tokens) - 1):
                yield window
