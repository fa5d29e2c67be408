"""The training itself: two steps in flight, saves in between, an orderly end on Ctrl-C."""

from __future__ import annotations

import math
import signal
from collections import deque
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Callable, Deque, List, Optional, Sequence, Type

from .examples import Batches, Example
from .run_file import TrainRun

if TYPE_CHECKING:
    from ...clients import TrainingClient
    from ...futures import Future
    from ...types import ForwardBackwardOutput
    from .progress import TrainProgress

__all__ = ["Interrupts", "train"]

#: The server is never idle between two steps, and no more is lost with the process.
_IN_FLIGHT = 2


class Interrupts:
    """In its ``with`` statement the first Ctrl-C only sets ``asked`` and calls ``tell``; the next one raises."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.asked = False
        self._tell = tell

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _receive(self, number: int, frame: Optional[FrameType]) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._tell()


@dataclass
class _Sent:
    """Something on its way, and what to do with its results once they are there."""

    futures: List[Future[Any]]
    finish: Callable[..., None]


def train(
    training: TrainingClient,
    examples: Sequence[Example],
    run: TrainRun,
    save_every: Optional[int],
    progress: TrainProgress,
    interrupts: Interrupts,
    saved: Callable[[int, str], None],
    losses: List[Optional[float]],
) -> None:
    """Take the steps of ``run`` that are left, or as many as were sent before Ctrl-C, and save the state.

    Args:
        save_every: Save the state each time so many steps are done, too.
        saved: Called with step and path of each save.
        losses: Gets the loss per token of each step, None where the server does not tell it.
    """
    from ...types import AdamParams

    options = run.options
    batches = Batches(len(examples), options.batch, options.seed)
    pending: Deque[_Sent] = deque()

    def send_step(step: int) -> None:
        batch = [examples[index] for index in batches.take(step)]
        params = AdamParams(
            learning_rate=options.rate(step, run.total),
            weight_decay=options.weight_decay,
            grad_clip_norm=options.clip_norm,
        )
        # The loss is one of those click let through.
        loss: Any = options.loss
        backward, optim = training.submit_train_step([example.datum() for example in batch], loss, params)

        def finish(output: ForwardBackwardOutput, _: Any) -> None:
            losses.append(_loss_per_token(output, batch))
            progress.stepped(step + 1, losses[-1], sum(example.length for example in batch))

        pending.append(_Sent([backward, optim], finish))

    def send_save(step: int) -> None:
        future = training.submit_save_state(f"step-{step:06d}")
        pending.append(_Sent([future], lambda answer: saved(step, answer.path)))

    step = run.step
    try:
        while True:
            while step < run.total and len(pending) < _IN_FLIGHT and not interrupts.asked:
                send_step(step)
                step += 1
                if save_every and step % save_every == 0 and step < run.total:
                    send_save(step)
            if pending:
                sent = pending[0]
                sent.finish(*[future.result() for future in sent.futures])
                pending.popleft()
            elif run.step == step:
                return
            else:
                send_save(step)
    except BaseException:
        # Their errors are all this one.
        for sent in pending:
            for future in sent.futures:
                future.abandon()
        raise


def _loss_per_token(output: ForwardBackwardOutput, batch: Sequence[Example]) -> Optional[float]:
    """The mean over the tokens that are learnt; of servers that tell no loss, from the log probabilities."""
    learnt = sum(example.learnt for example in batch)
    total = output.metrics.get("loss:sum")
    if total is None and "weights" in batch[0].columns:
        outputs = output.loss_fn_outputs
        if len(outputs) == len(batch) and all("logprobs" in one for one in outputs):
            total = -math.fsum(
                weight * logprob
                for one, example in zip(outputs, batch)
                for weight, logprob in zip(example.columns["weights"][1:], one["logprobs"].data)
            )
    return None if total is None else total / learnt
