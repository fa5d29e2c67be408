"""Sample prompts with a bounded number in flight, and write each response when it arrives."""

from __future__ import annotations

import collections
import queue
from functools import partial
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterable, Optional, Tuple, Union

from ..interrupts import DeferredInterrupt
from ..output import CommandError

if TYPE_CHECKING:
    from ...futures import Future
    from .progress import SampleProgress
    from .prompts import Prompt
    from .responses import ResponseFile, ResponseStream
    from .sampler import PromptSampler

__all__ = ["SampleLoop"]

#: The element of the queue that stands for Ctrl-C.
_INTERRUPT = None
#: An element of the queue: a prompt with its finished future, or Ctrl-C.
_Arrival = Optional[Tuple["Prompt", "Future[Any]"]]
#: Seconds of one wait. A signal that arrives just before the thread blocks, and any on Windows, is handled at its end.
_LONGEST_WAIT = 0.25


class SampleLoop:
    """Samples all prompts that have no response. Used by one thread.

    Finished futures and Ctrl-C arrive through one queue. So Ctrl-C cannot interrupt the writing of a response, and
    responses that arrived before it are written first.

    Args:
        concurrency: The largest number of prompts in flight.
        stop_on_error: Whether the first prompt that fails ends the run.
        is_ordered: Whether responses are written in the order of the prompts, else in the order of their arrival. At
            most ``concurrency`` prompts are in flight or wait for an earlier one.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        responses: Union[ResponseFile, ResponseStream],
        progress: SampleProgress,
        concurrency: int,
        stop_on_error: bool,
        is_ordered: bool = False,
    ) -> None:
        self._sampler = sampler
        self._responses = responses
        self._progress = progress
        self._concurrency = concurrency
        self._stop_on_error = stop_on_error
        self._is_ordered = is_ordered
        #: Prompts whose lines are not written, in their order, and the lines that wait for an earlier one.
        self._order: Deque[int] = collections.deque()
        self._lines: Dict[int, Dict[str, Any]] = {}
        # SimpleQueue.put is reentrant, so a signal handler may call it.
        self._arrivals: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._in_flight: Dict[int, Future[Any]] = {}
        #: Number of prompts that failed.
        self.failed = 0

    def run(self, prompts: Iterable[Prompt]) -> None:
        """Sample the prompts and write their responses.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            CommandError: A response cannot be written, or a prompt failed and ``stop_on_error`` is set.
            TinkexError: A request failed for a reason that does not depend on the prompt.
        """
        with DeferredInterrupt(lambda: self._arrivals.put(_INTERRUPT)):
            try:
                for prompt in prompts:
                    if not self._responses.has(prompt.index):
                        while len(self._in_flight) + len(self._lines) >= self._concurrency:
                            self._handle(self._next_arrival())
                        self._submit(prompt)
                while self._in_flight:
                    self._handle(self._next_arrival())
            except BaseException:
                for future in reversed(list(self._in_flight.values())):
                    future.abandon()
                self._write_arrived()
                # Nothing that has arrived is lost; a line may precede one that a later run adds.
                for index in sorted(self._lines):
                    self._responses.write(self._lines[index])
                raise

    def _submit(self, prompt: Prompt) -> None:
        if self._is_ordered:
            self._order.append(prompt.index)
        try:
            future = self._sampler.submit(prompt)
        except (ValueError, TypeError) as error:
            # The client refused the prompt before sending it.
            self._write_error(prompt, error)
            return
        self._in_flight[prompt.index] = future
        future.add_done_callback(partial(_put_arrival, self._arrivals, prompt))

    def _next_arrival(self) -> _Arrival:
        while True:
            try:
                return self._arrivals.get(timeout=_LONGEST_WAIT)
            except queue.Empty:
                continue

    def _handle(self, arrival: _Arrival) -> None:
        if arrival is _INTERRUPT:
            raise KeyboardInterrupt
        prompt, future = arrival
        del self._in_flight[prompt.index]
        error = future.exception()
        if error is None:
            self._write_response(prompt, future.result())
        elif _depends_on_prompt(error):
            self._write_error(prompt, error)
        else:
            raise error

    def _write_arrived(self) -> None:
        """Write the responses that have arrived, without errors."""
        while self._responses.is_writable:
            try:
                arrival = self._arrivals.get_nowait()
            except queue.Empty:
                return
            if arrival is not _INTERRUPT:
                prompt, future = arrival
                if not future.cancelled() and future.exception() is None:
                    self._write_response(prompt, future.result())

    def _write_response(self, prompt: Prompt, response: Any) -> None:
        from .responses import sequence_fields

        texts = self._sampler.texts(prompt, response)
        sequences = sequence_fields(response, texts, self._sampler.logprobs)
        self._write(prompt, {"sequences": sequences})
        self._progress.advance(failed=False)

    def _write(self, prompt: Prompt, fields: Dict[str, Any]) -> None:
        """Write the line of a prompt, when those of earlier prompts are written if the output is ordered."""
        line = {**_prompt_fields(prompt), **fields}
        if not self._is_ordered:
            self._responses.write(line)
            return
        self._lines[prompt.index] = line
        while self._order and self._order[0] in self._lines:
            self._responses.write(self._lines.pop(self._order.popleft()))

    def _write_error(self, prompt: Prompt, error: BaseException) -> None:
        from .responses import error_fields

        self.failed += 1
        self._write(prompt, {"error": error_fields(error)})
        self._progress.advance(failed=True)
        if self._stop_on_error:
            raise CommandError(
                f"prompt {prompt.index} failed: {error}", "With --on-error continue the others are sampled."
            )


def _put_arrival(arrivals: queue.SimpleQueue[_Arrival], prompt: Prompt, future: Any) -> None:
    # A function of the module, because a callback of the loop's own would keep the loop alive.
    arrivals.put((prompt, future))


def _prompt_fields(prompt: Prompt) -> Dict[str, Any]:
    return {"index": prompt.index, **({} if prompt.id is None else {"id": prompt.id})}


def _depends_on_prompt(error: BaseException) -> bool:
    """Return whether another prompt may succeed. Otherwise all further prompts would fail too."""
    from ... import errors

    kinds = (
        errors.BadRequestError,
        errors.UnprocessableEntityError,
        errors.RequestFailedError,
        errors.PromiseExpiredError,
        errors.ResultLostError,
        errors.DeadlineExceeded,
        errors.APIResponseValidationError,
        ValueError,
    )
    return isinstance(error, kinds) or getattr(error, "status_code", None) == 413
