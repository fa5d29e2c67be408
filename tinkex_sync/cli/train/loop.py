"""Take the training steps of a run: two steps in flight, evaluations and saves in between, and a save after Ctrl-C."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Deque, Iterator, List, Optional, Sequence

from ..interrupts import DeferredInterrupt
from .batches import Batches
from .examples import Example, Examples
from .run_file import TrainRun

if TYPE_CHECKING:
    from ...clients import TrainingClient
    from ...futures import Future
    from ...types import ForwardBackwardOutput
    from .progress import TrainProgress

__all__ = ["TrainLoop"]

#: With two steps in flight the server is not idle between them, and no more than two are lost with the process.
_STEPS_IN_FLIGHT = 2
#: Number of examples of one forward pass of an evaluation.
_EVALUATION_BATCH = 64


@dataclass
class _Submission:
    """Submitted operations, and the function to call with their results."""

    futures: List[Future[Any]]
    finish: Callable[..., None]


class TrainLoop:
    """Takes the steps of ``run`` that are left, evaluates, and saves the state. Used by one thread.

    Args:
        validation: The examples of the validation file, or none.
        save_every: Number of steps between two saves. None: save only at the end.
        on_save: Called with the step and the path of each save.
    """

    def __init__(
        self,
        training: TrainingClient,
        examples: Examples,
        validation: Examples,
        run: TrainRun,
        save_every: Optional[int],
        progress: TrainProgress,
        on_save: Callable[[int, str], None],
    ) -> None:
        self._training = training
        self._examples = examples
        self._validation = validation
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
        submissions = self._submissions(interrupt)
        try:
            while True:
                while len(self._in_flight) < _STEPS_IN_FLIGHT:
                    submission = next(submissions, None)
                    if submission is None:
                        break
                    self._in_flight.append(submission)
                if not self._in_flight:
                    return
                submission = self._in_flight[0]
                submission.finish(*[future.result() for future in submission.futures])
                self._in_flight.popleft()
        except BaseException:
            # The futures in flight fail with the same error, which must not be logged again.
            for submission in self._in_flight:
                for future in submission.futures:
                    future.abandon()
            raise

    def _submissions(self, interrupt: DeferredInterrupt) -> Iterator[_Submission]:
        """Submit one operation after the other, each when the iterator is advanced.

        The server carries them out in this order, so an evaluation uses the weights of its step.
        """
        run = self._run
        step = saved = run.step
        # An earlier command may have been interrupted in this evaluation.
        if run.needs_evaluation(step):
            yield from self._evaluation(step, interrupt)
        while step < run.total and not interrupt.is_requested:
            yield self._submit_step(step)
            step += 1
            if run.needs_evaluation(step):
                yield from self._evaluation(step, interrupt)
            if self._save_every and step % self._save_every == 0 and step < run.total:
                yield self._submit_save(step)
                saved = step
        if step != saved:
            yield self._submit_save(step)

    def _submit_step(self, step: int) -> _Submission:
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
            total, learned = _total_loss(output, batch), sum(example.learned for example in batch)
            self.losses.append(None if total is None else total / learned)
            self._progress.finish_step(step + 1, self.losses[-1], sum(example.length for example in batch))

        return _Submission([*futures], finish)

    def _evaluation(self, step: int, interrupt: DeferredInterrupt) -> Iterator[_Submission]:
        """Submit the forward passes of one evaluation. After Ctrl-C no more are submitted, and nothing is recorded."""
        options = self._run.options
        loss: Any = options.loss
        losses: List[Optional[float]] = []
        learned: List[float] = []
        count = len(self._validation)
        for start in range(0, count, _EVALUATION_BATCH):
            if interrupt.is_requested:
                return
            end = min(start + _EVALUATION_BATCH, count)
            batch = [self._validation[index] for index in range(start, end)]
            future = self._training.submit_forward([entry.datum() for entry in batch], loss, options.loss_fn_config)

            def finish(
                output: ForwardBackwardOutput, batch: Sequence[Example] = batch, is_last: bool = end == count
            ) -> None:
                losses.append(_total_loss(output, batch))
                learned.append(sum(example.learned for example in batch))
                if is_last:
                    known = [entry for entry in losses if entry is not None]
                    mean = math.fsum(known) / math.fsum(learned) if len(known) == len(losses) else None
                    self._run.add_evaluation(step, mean)
                    self._progress.finish_evaluation(step, mean)

            yield _Submission([future], finish)

    def _submit_save(self, step: int) -> _Submission:
        future = self._training.submit_save_state(f"step-{step:06d}")
        return _Submission([future], lambda response: self._on_save(step, response.path))


def _total_loss(output: ForwardBackwardOutput, batch: Sequence[Example]) -> Optional[float]:
    """Return the sum of the losses of the learned tokens.

    A server that returns no loss returns log probabilities, from which the loss is computed. Without both it is None.
    """
    total: Optional[float] = output.metrics.get("loss:sum")
    if total is None and "weights" in batch[0].columns:
        outputs = output.loss_fn_outputs
        if len(outputs) == len(batch) and all("logprobs" in entry for entry in outputs):
            total = -math.fsum(
                weight * logprob
                for entry, example in zip(outputs, batch)
                for weight, logprob in zip(example.columns["weights"][1:], entry["logprobs"].data)
            )
    return total
