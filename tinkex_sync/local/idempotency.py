"""Responses recorded by idempotency key, so that a repeated request has no second effect."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any, Callable, Tuple

from .fault_gate import PAID_OPERATIONS
from .json_bodies import RejectedRequest

__all__ = ["IDEMPOTENT_OPERATIONS", "RecordedResponses", "digest"]

#: Operations whose responses are recorded. The other operations have no effect, or only count.
IDEMPOTENT_OPERATIONS = PAID_OPERATIONS | {"copy_weights", "unload_model"}

#: The number of recorded responses. The oldest are discarded first.
MAX_RECORDS = 10_000


def digest(data: bytes) -> bytes:
    """Return a short hash of a request body. Equal bodies have equal hashes."""
    return hashlib.blake2b(data, digest_size=16).digest()


class _Record:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.finished = threading.Event()
        self.succeeded = False
        self.response: Any = None


class RecordedResponses:
    """The responses of earlier requests by operation and idempotency key. Thread-safe.

    Invariant: a key is in ``_records`` from the moment at which its request is handled until the request fails or
    newer keys displace it. The event of a record is set when its response is known or the request has failed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: OrderedDict[Tuple[str, str], _Record] = OrderedDict()  # guarded by _lock

    def replay_or_handle(self, operation: str, key: str, body: bytes, handle: Callable[[], Any]) -> Tuple[Any, bool]:
        """Return the recorded response of a key, or handle the request and record its response.

        Concurrent requests with one key are handled once.

        Args:
            operation: The name of the operation.
            key: The idempotency key of the request.
            body: The digest of the body.
            handle: Handles the request. If it raises, nothing is recorded.

        Returns:
            The response, and whether it is a recorded one.

        Raises:
            RejectedRequest: 409, the key was used with another body. All exceptions of ``handle`` are raised too.
        """
        own = _Record(body)
        while True:
            with self._lock:
                record = self._records.setdefault((operation, key), own)
                if len(self._records) > MAX_RECORDS:
                    self._records.popitem(last=False)
            if record is own:
                break
            if record.body != body:
                raise RejectedRequest(409, f"idempotency key {key!r} was already used for another request body")
            record.finished.wait()
            if record.succeeded:
                return record.response, True
        try:
            own.response = handle()
            own.succeeded = True
        except BaseException:
            with self._lock:
                self._records.pop((operation, key), None)
            raise
        finally:
            own.finished.set()
        return own.response, False
