"""Train the demo's model until the text is learned or the time is over."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, List

from .display import shown_progress
from .windows import next_token_datum, random_windows

if TYPE_CHECKING:
    from rich.console import Console

    from ...clients import TrainingClient

__all__ = ["TrainingProgress", "train"]

#: Tokens of a window, and windows of a batch.
_WINDOW = 128
_BATCH = 4
_LEARNING_RATE = 0.005
_WARM_UP_STEPS = 5
#: Epochs, if there is time. The built-in story is learned after so many.
_EPOCHS = 130
#: Fewest steps, for texts of one or two lines.
_FEWEST_STEPS = 100
#: Number of last steps whose mean is reported as the loss.
_RECENT_STEPS = 10


@dataclass
class TrainingProgress:
    """How far training has come. Only the thread that trains reads and writes it."""

    #: Mean loss per token of each step, in nats.
    losses: List[float] = field(default_factory=list)
    #: Fraction of the steps or of the time that is used, the larger of the two, from 0 to 1.
    complete: float = 0.0
    is_out_of_time: bool = False

    @property
    def first_loss(self) -> float:
        """The loss of the first step."""
        return self.losses[0]

    @property
    def recent_loss(self) -> float:
        """The mean loss of the last steps."""
        recent = self.losses[-_RECENT_STEPS:]
        return sum(recent) / len(recent)


def train(console: Console, training: TrainingClient, tokens: List[int], seconds: float, seed: int) -> TrainingProgress:
    """Train on the tokens and show the loss on ``console``.

    Args:
        tokens: The text.
        seconds: Longest duration.
        seed: Determines the order of the windows.
    """
    from ...concurrency.clock import Clock
    from ...types import AdamParams

    clock, progress = Clock(), TrainingProgress()
    steps = max(_FEWEST_STEPS, len(tokens) * _EPOCHS // (_WINDOW * _BATCH))
    started = clock.time()
    windows = random_windows(tokens, _WINDOW, random.Random(seed))
    with shown_progress(console, progress) as show:
        while progress.complete < 1:
            batch = [next_token_datum(window) for window in islice(windows, _BATCH)]
            params = AdamParams(learning_rate=_learning_rate(progress))
            result = training.train_step(batch, "cross_entropy", params)
            length = sum(datum.model_input.length for datum in batch)
            progress.losses.append(result.metrics["loss:sum"] / length)
            used_time = (clock.time() - started) / seconds
            progress.is_out_of_time = used_time >= 1
            progress.complete = min(1.0, max(len(progress.losses) / steps, used_time))
            show()
    return progress


def _learning_rate(progress: TrainingProgress) -> float:
    """Return the rate of the next step: a short warm-up, and a decay to a tenth in the second half."""
    rate = _LEARNING_RATE * min(1.0, 1.9 - 1.8 * progress.complete)
    return rate * min(1.0, (len(progress.losses) + 1) / _WARM_UP_STEPS)
