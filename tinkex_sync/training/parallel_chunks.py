"""The chunks of one batch sent side by side, to servers that say they put them in order by number.

The first chunk goes last: a server begins with it, and so has the whole batch by then. A chunk that is refused must not
leave a hole among the numbers, or the server waits at it for ever; a forward pass, which changes nothing, fills it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable, List, Optional
from typing import Sequence as Sequenced

from ..concurrency.primitives import Event, Lock
from ..errors import ClosedError, OutcomeUnknownError, TinkexError
from ..plugins.hookspecs import Boundary
from ..session import Session
from .sequence_numbers import Sent, Sequence

__all__ = ["Dispatched", "send_side_by_side"]

_log = logging.getLogger(__name__)

#: Makes a request about a chunk, under a number; sends nothing.
Prepare = Callable[[Boundary, int], Sent]


@dataclass
class Dispatched:
    """What became of one chunk."""

    boundary: Boundary
    number: int
    sent: Optional[Sent] = None
    error: Optional[BaseException] = None

    @property
    def refused(self) -> bool:
        """The server does not have it, and its number is unused."""
        return self.error is not None and not isinstance(self.error, (OutcomeUnknownError, ClosedError))


def send_side_by_side(
    session: Session,
    sequence: Sequence,
    boundaries: Sequenced[Boundary],
    prepare: Prepare,
    fill: Prepare,
) -> List[Dispatched]:
    """Send every chunk and wait for all promises; called by the lane.

    Args:
        prepare: Makes a chunk's request.
        fill: Makes a request that does no more than use up a number, out of a chunk that the server took.

    Returns:
        The chunks in order. The numbers of those refused are used up or given back, so that the next operation has
        its turn.
    """
    first = sequence.reserve(len(boundaries))
    chunks = [Dispatched(boundary, first + index) for index, boundary in enumerate(boundaries)]
    left = len(chunks) - 1
    lock, done = Lock(), Event()

    def send(chunk: Dispatched) -> None:
        try:
            session.chunk_budget.acquire(chunk.boundary.estimated_bytes)
            try:
                chunk.sent = sequence.transmit(prepare(chunk.boundary, chunk.number))
            finally:
                session.chunk_budget.release(chunk.boundary.estimated_bytes)
        except BaseException as error:
            chunk.error = error

    def job(chunk: Dispatched) -> None:
        nonlocal left
        send(chunk)
        with lock:
            left -= 1
            last = left == 0
        if last:
            done.set()

    for chunk in chunks[1:]:
        if not session.helpers.submit(lambda chunk=chunk: job(chunk)):  # type: ignore[misc]
            raise ClosedError("the client is closed")
    # Each of them ends with its policy, or when the client is closed.
    session.clock.wait(done)
    send(chunks[0])
    _mend(sequence, chunks, fill)
    return chunks


def _mend(sequence: Sequence, chunks: List[Dispatched], fill: Prepare) -> None:
    """Leave no number unused below one that was used."""
    while chunks and chunks[-1].refused:
        sequence.give_back(chunks[-1].number)
        chunks = chunks[:-1]
    taken = next((chunk for chunk in chunks if chunk.sent is not None), None)
    for chunk in chunks:
        if chunk.refused and taken is not None:
            try:
                sequence.transmit(fill(taken.boundary, chunk.number))
            except TinkexError as error:
                _log.warning("Number %d is unused, and the server may wait for it: %s", chunk.number, error)
