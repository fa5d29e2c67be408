"""From prompts to replies in the file: a bounded number on their way, and Ctrl-C where it does no harm."""

from __future__ import annotations

import queue
import signal
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple, Union

from ..output import CommandError

if TYPE_CHECKING:
    from ...futures import Future
    from .command import Drawing
    from .progress import SampleProgress
    from .prompts import Prompt, PromptFile
    from .replies import ReplyFile, ReplyStream

__all__ = ["answer_all"]

#: Stands in the queue of replies for Ctrl-C.
_INTERRUPT = None
#: What comes through the queue: a prompt, and what has its reply; or Ctrl-C.
_Arrival = Optional[Tuple["Prompt", "Future[Any]"]]


def answer_all(
    drawing: Drawing,
    asked: PromptFile,
    written: Union[ReplyFile, ReplyStream],
    progress: SampleProgress,
    concurrency: int,
    stop: bool,
) -> int:
    """Sample every prompt without a reply; returns how many failed.

    Replies and Ctrl-C come through one queue, so that Ctrl-C cannot strike while a reply is on its way to the
    file, and what has come by then is written first.
    """
    arrivals: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
    open_futures: Dict[int, Future[Any]] = {}
    failed = 0

    def settle(arrival: _Arrival) -> None:
        nonlocal failed
        if arrival is _INTERRUPT:
            raise KeyboardInterrupt
        prompt, future = arrival
        del open_futures[prompt.index]
        failed += not _write(drawing, written, progress, prompt, future, stop)

    with _interrupts(lambda: arrivals.put(_INTERRUPT)):
        try:
            for prompt in asked:
                if written.has(prompt.index):
                    continue
                while len(open_futures) >= concurrency:
                    settle(_next(arrivals))
                try:
                    future = drawing.submit(prompt)
                except (ValueError, TypeError) as error:
                    # Refused before it was sent.
                    failed += 1
                    _write_failure(written, progress, prompt, error, stop)
                    continue
                open_futures[prompt.index] = future
                future.add_done_callback(partial(_arrive, arrivals, prompt))
            while open_futures:
                settle(_next(arrivals))
        except BaseException:
            for future in reversed(list(open_futures.values())):
                future.abandon()
            if written.writable:
                _write_rest(drawing, arrivals, written, progress)
            raise
    return failed


def _arrive(arrivals: queue.SimpleQueue[_Arrival], prompt: Prompt, future: Any) -> None:
    arrivals.put((prompt, future))


def _next(arrivals: queue.SimpleQueue[_Arrival]) -> _Arrival:
    from ...concurrency.clock import SLICE

    while True:
        try:
            return arrivals.get(timeout=SLICE)
        except queue.Empty:
            continue


def _write_rest(
    drawing: Drawing,
    arrivals: queue.SimpleQueue[_Arrival],
    written: Union[ReplyFile, ReplyStream],
    progress: SampleProgress,
) -> None:
    """Write the good replies that have come, and no other."""
    while True:
        try:
            arrival = arrivals.get_nowait()
        except queue.Empty:
            return
        if arrival is not _INTERRUPT:
            prompt, future = arrival
            if not future.cancelled() and future.exception() is None:
                _write(drawing, written, progress, prompt, future, False)


def _write(
    drawing: Drawing,
    written: Union[ReplyFile, ReplyStream],
    progress: SampleProgress,
    prompt: Prompt,
    future: Future[Any],
    stop: bool,
) -> bool:
    """Write what became of a prompt; False if that is an error."""
    from .replies import sequences_of

    error = future.exception()
    if error is not None:
        if not _of_this_prompt(error):
            raise error
        _write_failure(written, progress, prompt, error, stop)
        return False
    reply = future.result()
    sequences = sequences_of(reply, drawing.texts.decode(reply), drawing.logprobs)
    written.write({**_head(prompt), "sequences": sequences})
    progress.advance(failed=False)
    return True


def _write_failure(
    written: Union[ReplyFile, ReplyStream],
    progress: SampleProgress,
    prompt: Prompt,
    error: BaseException,
    stop: bool,
) -> None:
    from .replies import failure_of

    written.write({**_head(prompt), "error": failure_of(error)})
    progress.advance(failed=True)
    if stop:
        raise CommandError(f"prompt {prompt.index} failed: {error}", "With --on-error continue others go on.")


def _head(prompt: Prompt) -> Dict[str, Any]:
    return {"index": prompt.index, **({} if prompt.id is None else {"id": prompt.id})}


def _of_this_prompt(error: BaseException) -> bool:
    """Whether another prompt may well fare better; otherwise going on would only fail them all."""
    from ... import errors

    own = (
        errors.BadRequestError,
        errors.UnprocessableEntityError,
        errors.RequestFailedError,
        errors.PromiseExpiredError,
        errors.ResultLostError,
        errors.DeadlineExceeded,
        errors.APIResponseValidationError,
        ValueError,
    )
    return isinstance(error, own) or getattr(error, "status_code", None) == 413


@contextmanager
def _interrupts(note: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C is only noted; a second one strikes as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def noted(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        note()

    signal.signal(signal.SIGINT, noted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
