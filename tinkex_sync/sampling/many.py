"""Samples of many prompts from one thread: a bounded number of futures over an iterable of prompts."""

from __future__ import annotations

import collections
from typing import Any, Callable, Deque, Dict, Iterable, Iterator

from .. import types
from ..concurrency.clock import wait_interruptibly
from ..concurrency.primitives import Event, Lock
from ..futures import Future
from ..validation import check_count


class SampleMany(Iterator[Any]):
    """Iterator over the responses of ``SamplingClient.sample_many``. Used by one thread.

    Invariants: each prompt has exactly one outcome. At most ``max_in_flight`` outcomes are submitted or finished and
    not yet returned.

    Args:
        submit: Submits the sample of one prompt.
        prompts: Prompts; read one by one in the thread that iterates.
        max_in_flight: Most outcomes that are held, at least 1.
        ordered: Whether responses are returned in the order of the prompts; otherwise ``(index, response)`` in order
            of completion.
        on_error: "raise" or "yield".

    Raises:
        ValueError: ``max_in_flight`` or ``on_error`` is invalid.
    """

    def __init__(
        self,
        submit: Callable[[types.ModelInput], Future[types.SampleResponse]],
        prompts: Iterable[types.ModelInput],
        *,
        max_in_flight: int,
        ordered: bool,
        on_error: str,
    ) -> None:
        check_count("max_in_flight", max_in_flight, least=1)
        if on_error not in ("raise", "yield"):
            raise ValueError(f"on_error must be 'raise' or 'yield', got {on_error!r}")
        self._submit = submit
        self._prompts = enumerate(prompts)
        self._max_in_flight = max_in_flight
        self._ordered = ordered
        self._yields_errors = on_error == "yield"
        #: Outcomes by index of the prompt: a future, or the error of a prompt that was refused before it was sent.
        self._outcomes: Dict[int, Any] = {}
        self._lock = Lock()
        self._finished: Deque[int] = collections.deque()  # guarded by _lock
        self._any_finished = Event()
        self._is_exhausted = False

    def __iter__(self) -> SampleMany:
        return self

    def __next__(self) -> Any:
        try:
            self._submit_more()
            if not self._outcomes:
                raise StopIteration
            # A dict keeps the order in which the prompts were submitted.
            index = next(iter(self._outcomes)) if self._ordered else self._next_finished()
            response = self._take(index)
        except BaseException:
            self.close()
            raise
        return response if self._ordered else (index, response)

    def _submit_more(self) -> None:
        while not self._is_exhausted and len(self._outcomes) < self._max_in_flight:
            try:
                index, prompt = next(self._prompts)
            except StopIteration:
                self._is_exhausted = True
                return
            try:
                self._outcomes[index] = future = self._submit(prompt)
            except (ValueError, TypeError) as error:
                if not self._yields_errors:
                    raise type(error)(f"prompt {index}: {error}") from error
                self._outcomes[index] = error
                self._note_finished(index)
            else:
                future.add_done_callback(lambda _, index=index: self._note_finished(index))  # type: ignore[misc]

    def _note_finished(self, index: int) -> None:
        if self._ordered:
            return
        with self._lock:
            self._finished.append(index)
        self._any_finished.set()

    def _next_finished(self) -> int:
        while True:
            with self._lock:
                if self._finished:
                    return self._finished.popleft()
                self._any_finished.clear()
            wait_interruptibly(self._any_finished)

    def _take(self, index: int) -> Any:
        """Wait for an outcome and remove it."""
        outcome = self._outcomes[index]
        if isinstance(outcome, Future):
            try:
                outcome = outcome.result()
            except Exception as error:
                if not self._yields_errors:
                    raise
                outcome = error
        del self._outcomes[index]
        return outcome

    def close(self) -> None:
        """Withdraw the samples that were not sent, and drop the results of the others. Idempotent.

        Leaving a ``for`` loop calls it.
        """
        self._is_exhausted = True
        outcomes, self._outcomes = list(self._outcomes.values()), {}
        # In reverse, so that no sample is sent because an earlier one was withdrawn.
        for outcome in reversed(outcomes):
            if isinstance(outcome, Future):
                outcome.abandon()

    def __enter__(self) -> SampleMany:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_outcomes"):
            self.close()
