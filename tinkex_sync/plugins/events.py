"""What events are about: which client, and which part of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Boundary", "Source"]


@dataclass(frozen=True)
class Source:
    """Which client an event belongs to.

    ``kind`` is "service", "training", "sampling" or "rest". ``id`` names that client on the server: the
    model id of a training client, the sampling session id of a sampling client, the session id of the others.
    """

    kind: str
    id: str
    session_id: str


class Boundary(NamedTuple):
    """One chunk of a batch: the datums ``data[start:stop]``."""

    #: Place of the chunk in the call, from 0.
    index: int  # type: ignore[assignment]  # tuple.index gives way
    start: int
    stop: int
    #: What the chunk counts as under the limits, in bytes; an estimate, see ``byte_estimates``.
    estimated_bytes: int
