"""Values that hooks receive: the client of an event and a chunk of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Source:
    """The client that an event belongs to. Immutable and hashable.

    Args:
        kind: "service", "training", "sampling" or "rest".
        id: The client's id on the server: the model id of a training client, the sampling session id of a
            sampling client, the session id of a service or REST client.
        session_id: Id of the session that the client uses.
    """

    kind: str
    id: str
    session_id: str


class Boundary(NamedTuple):
    """One chunk of a batch: the datums ``data[start:stop]``."""

    #: Position of the chunk in the batch, from 0.
    index: int  # type: ignore[assignment]  # replaces the method tuple.index
    start: int
    stop: int
    #: Estimated size of the chunk in bytes, as compared with the limits; see ``protocol.byte_estimates``.
    estimated_bytes: int
