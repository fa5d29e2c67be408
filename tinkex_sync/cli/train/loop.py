"""Take the training steps of a run: two steps in flight, saves in between, and a save after Ctrl-C."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Deque, List, Optional, Sequence

from ..interrupts import DeferredInterrupt
from .batches import Batches
from .examples import Example
from .run_file import TrainRun

if TYPE_CHECKING:
    from ...clients import TrainingClient
    from ...futures import Future
    from ...types import ForwardBackwardOutput
    from .progress import TrainProgress

__all__ = ["TrainLoop"]

#: With two steps in flight the server is not idle between them, and no more than two are lost with the process.
_STEPS_IN_FLIGHT = 2


@dataclass
class _Submission:
    """Submitted operations, and the function to call with their results."""

    futures: List[Future[Any]]
    finish: Callable[..., None]


class TrainLoop:
    """Takes the steps of ``run`` that are left and saves the state. Used by one thread.

    Args:
        save_every: Number of steps between two saves. None: save only at the end.
        on_save: Called with the step and the path of each save.
    """

    def __init__(
        self,
        training: TrainingClient,
        examples: Sequence[Example],
        run: TrainRun,
        save_every: Optional[int],
        progress: TrainProgress,
        on_save: Callable[[int, str], None],
    ) -> None:
        self._training = training
        self._examples = examples
        self._run = run
        self._save_every = save_every
        self._progress = progress
        self._on_save = on_save
        self._batches = Batches(len(examples), run.options.batch, run.options.seed)
        self._in_flight: Deque[_Submission] = deque()
        #: The loss per token of each finished step. None: the server does not return it.
        self.losses: List[Optional[float]] = []

    def run(self, interrupt: DeferredInterrupt) -> None:
        """Take the steps, or finish those in flight after Ctrl-C, and save the state.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed a second time.
            TinkexError: An operation failed.
        """
        try:
            submitted = self._run.step
            while True:
                submitted = self._submit_steps(submitted, interrupt)
                if self._in_flight:
                    submission = self._in_flight[0]
                    submission.finish(*[future.result() for future in submission.futures])
                    self._in_flight.popleft()
                elif self._run.step == submitted:
                    return
                else:
                    self._submit_save(submitted)
        except BaseException:
            # The futures in flight fail with the same error, which must not be logged again.
            for submission in self._in_flight:
                for future in submission.futures:
                    future.abandon()
            raise

    def _submit_steps(self, step: int, interrupt: DeferredInterrupt) -> int:
        """Submit steps, and the saves between them, until enough are in flight. Return the next step."""
        total, save_every = self._run.total, self._save_every
        while step < total and len(self._in_flight) < _STEPS_IN_FLIGHT and not interrupt.is_requested:
            self._submit_step(step)
            step += 1
            if save_every and step % save_every == 0 and step < total:
                self._submit_save(step)
        return step

    def _submit_step(self, step: int) -> None:
        from ...types import AdamParams

        options = self._run.options
        batch = [self._examples[index] for index in self._batches.indices(step)]
        params = AdamParams(
            learning_rate=options.learning_rate_of(step, self._run.total),
            weight_decay=options.weight_decay,
            grad_clip_norm=options.clip_norm,
        )
        # click has checked that the loss is one of those that the client accepts.
        loss: Any = options.loss
        datums = [example.datum() for example in batch]
        futures = self._training.submit_train_step(datums, loss, params, options.loss_fn_config)

        def finish(output: ForwardBackwardOutput, _: Any) -> None:
            self.losses.append(_loss_per_token(output, batch))
            self._progress.finish_step(step + 1, self.losses[-1], sum(example.length for example in batch))

        self._in_flight.append(_Submission([*futures], finish))

    def _submit_save(self, step: int) -> None:
        future = self._training.submit_save_state(f"step-{step:06d}")
        self._in_flight.append(_Submission([future], lambda response: self._on_save(step, response.path)))


def _loss_per_token(output: ForwardBackwardOutput, batch: Sequence[Example]) -> Optional[float]:
    """Return the mean loss of the learned tokens.

    A server that returns no loss returns log probabilities, from which the loss is computed. Without both it is None.
    """
    learned = sum(example.learned for example in batch)
    total = output.metrics.get("loss:sum")
    if total is None and "weights" in batch[0].columns:
        outputs = output.loss_fn_outputs
        if len(outputs) == len(batch) and all("logprobs" in entry for entry in outputs):
            total = -math.fsum(
                weight * logprob
                for entry, example in zip(outputs, batch)
                for weight, logprob in zip(example.columns["weights"][1:], entry["logprobs"].data)
            )
    return None if total is None else total / learned
