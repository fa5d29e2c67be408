"""Every exception this package raises on purpose.

::

    TinkexError
    +-- APIError                        .message .body
    |   +-- APIResponseValidationError  .status_code .path         (the answer cannot be decoded)
    |   +-- APIStatusError              .status_code .request_id .retry_after .headers
    |   |   +-- BadRequestError 400, AuthenticationError 401, BillingError 402, PermissionDeniedError 403,
    |   |       NotFoundError 404, ConflictError 409, UnprocessableEntityError 422, RateLimitError 429,
    |   |       InternalServerError >= 500
    |   +-- APIConnectionError          no answer at all
    |       +-- APITimeoutError         also TimeoutError
    +-- RequestFailedError              .request_id .category .polled  (the operation itself failed)
    +-- PromiseExpiredError             accepted, but the server lost the result
    +-- ResultLostError                 the result was delivered to a poll that did not survive
    +-- OutcomeUnknownError             it may or may not have been applied
    +-- PartialBatchError               .accepted .refused         (some chunks of a batch were accepted)
    +-- WithdrawnError                  never sent, because what it depends on failed
    +-- DeadlineExceeded                also TimeoutError          .phase .sent .request_id .queue_state
    +-- ClosedError                     the client was closed
    +-- ForkedClientError               used in a forked child
    +-- MissingExtraError               also ImportError           (an optional dependency is not installed)
    +-- ConfigError                     also ValueError            (a setting is wrong; names it)
    +-- PluginError                     strict mode only

Wrong arguments are plain ValueError or TypeError, raised before anything is sent. All of these survive pickle
with their attributes and texts.
"""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Type

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BillingError",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "DeadlineExceeded",
    "ForkedClientError",
    "InternalServerError",
    "MissingExtraError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PartialBatchError",
    "PermissionDeniedError",
    "PluginError",
    "PromiseExpiredError",
    "RateLimitError",
    "RequestFailedError",
    "ResultLostError",
    "TinkexError",
    "UnprocessableEntityError",
    "WithdrawnError",
    "status_error",
]


def _rebuild(cls: Type[BaseException], args: Tuple[Any, ...], state: Dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class Polled(NamedTuple):
    """Which promise a poll was about."""

    request_id: str
    #: What the promise is of, such as "OptimStep".
    request_type: str
    #: Polls of this promise before this one.
    iteration: int


class TinkexError(Exception):
    """The root: whatever went wrong, ``except TinkexError`` catches it."""

    #: Where it came of polling, what was polled.
    polled: Optional[Polled] = None

    # Without a constructor in Python, inspect.signature() fails on the class.
    def __init__(self, *args: object) -> None:
        super().__init__(*args)

    def __reduce__(self) -> Tuple[Any, ...]:
        # The default calls the class with ``args`` alone, which loses keyword-only attributes.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class SentRequest(NamedTuple):
    """What was asked for; no headers, since the key is among them."""

    method: str
    url: str


class Answer(NamedTuple):
    """An answer that is not 2xx, as far as it is kept."""

    status_code: int
    headers: Mapping[str, str]
    body: Any
    request: Optional[SentRequest]

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body)

    def json(self) -> Any:
        """The decoded body; ValueError if it is not JSON."""
        return json.loads(self.body) if isinstance(self.body, str) else self.body


class APIError(TinkexError):
    """Something between us and the server went wrong."""

    def __init__(self, message: str, *, body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        #: Decoded JSON of the answer, its text if it is not JSON, or None if there was no answer.
        self.body = body
        #: What was asked for, where one request failed.
        self.request: Optional[SentRequest] = None
        #: How often the call was sent before giving up; 1 when it was not retried.
        self.attempts = 1
        #: Seconds from the first send to giving up.
        self.elapsed = 0.0


class APIResponseValidationError(APIError):
    """The server answered 2xx with a body that cannot be decoded."""

    def __init__(
        self,
        message: str = "Data returned by API invalid for expected schema.",
        *,
        status_code: int = 200,
        body: Any = None,
        path: str = "",
    ) -> None:
        super().__init__(message, body=body)
        self.status_code = status_code
        #: Where in the body the trouble is, such as ``sequences[0].tokens``; "" for the whole.
        self.path = path

    @property
    def response(self) -> Answer:
        """Status and body in one."""
        return Answer(self.status_code, {}, self.body, self.request)


class APIStatusError(APIError):
    """The server answered, and the answer was not 2xx."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        body: Any = None,
        headers: Optional[Mapping[str, str]] = None,
        request_id: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message, body=body)
        self.status_code = status_code
        #: Answer headers, names in lower case.
        self.headers: Dict[str, str] = dict(headers or {})
        #: The promise that was polled, if it was one.
        self.request_id = request_id
        #: Seconds the server asked us to wait, if it did.
        self.retry_after = retry_after

    @property
    def response(self) -> Answer:
        """Status, headers and body in one."""
        return Answer(self.status_code, self.headers, self.body, self.request)


class BadRequestError(APIStatusError):
    """400: the server refuses what was asked."""


class AuthenticationError(APIStatusError):
    """401: no API key, or a wrong one."""


class BillingError(APIStatusError):
    """402: the account has to be topped up; calls wait for that for a while before they raise this."""


class PermissionDeniedError(APIStatusError):
    """403: this key may not do that."""


class NotFoundError(APIStatusError):
    """404: no such thing, or no such endpoint."""


class ConflictError(APIStatusError):
    """409: it contradicts the state on the server."""


class UnprocessableEntityError(APIStatusError):
    """422: the server cannot make sense of the body."""


class RateLimitError(APIStatusError):
    """429: too much at once."""


class InternalServerError(APIStatusError):
    """500 and above: the server failed."""


_BY_STATUS: Dict[int, Type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error(
    status_code: int,
    *,
    body: Any,
    headers: Optional[Mapping[str, str]] = None,
    request_id: Optional[str] = None,
    retry_after: Optional[float] = None,
) -> APIStatusError:
    """The error for an answer that is not 2xx: class by status, text from the body.

    Args:
        body: Decoded JSON, or stripped text where the body is not JSON ("" when it is empty).
    """
    if isinstance(body, str):
        message = body or f"Error code: {status_code}"
    else:
        message = f"Error code: {status_code} - {body}"
    cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    return cls(
        message,
        status_code=status_code,
        body=body,
        headers=headers,
        request_id=request_id,
        retry_after=retry_after,
    )


class APIConnectionError(APIError):
    """No answer: the connection could not be made, or broke."""

    def __init__(self, message: str = "Connection error.", *, body: Any = None) -> None:
        super().__init__(message, body=body)
        #: True if not a byte of the request can have reached the server (refused, DNS, TLS).
        self.unsent = False
        #: True if the connection had served an earlier request, so the server may merely have dropped it.
        self.reused = False


class APITimeoutError(APIConnectionError, TimeoutError):
    """No answer in time."""

    def __init__(self, message: str = "Request timed out.", *, body: Any = None) -> None:
        super().__init__(message, body=body)


class RequestFailedError(TinkexError):
    """The server accepted the operation and then failed to carry it out."""

    def __init__(
        self, message: str, request_id: Optional[str] = None, category: str = "unknown", *, body: Any = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        #: Whose fault the server says it is: "user", "server" or "unknown". The server's own verdict comes as a
        #: ``types.RequestErrorCategory``, which equals its text.
        self.category = category
        self.body = body


class PromiseExpiredError(TinkexError):
    """The server accepted the operation and no longer knows its result (410)."""

    def __init__(self, message: str, *, request_id: Optional[str] = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class ResultLostError(TinkexError):
    """The result was probably delivered to a poll whose answer never arrived; it cannot be fetched again."""

    def __init__(self, message: str, *, request_id: Optional[str] = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class OutcomeUnknownError(TinkexError):
    """A training operation was sent and its reply was lost: it may have been applied, or not."""

    def __init__(self, message: str, *, seq_id: Optional[int] = None) -> None:
        super().__init__(message)
        self.seq_id = seq_id


class PartialBatchError(TinkexError):
    """A later chunk of a batch was refused after earlier ones had been accepted.

    The gradients of the accepted datums stay accumulated on the server and become part of the next
    optimizer step. The refusal itself is ``__cause__``.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Tuple[int, int],
        refused: Tuple[int, int],
        accepted_ranges: Optional[Tuple[Tuple[int, int], ...]] = None,
        refused_ranges: Optional[Tuple[Tuple[int, int], ...]] = None,
    ) -> None:
        super().__init__(message)
        #: Datums the server has: ``data[accepted[0]:accepted[1]]``.
        self.accepted = accepted
        #: Datums it does not have: ``data[refused[0]:refused[1]]``.
        self.refused = refused
        #: The same in full, where chunks were sent side by side: there may be several ranges of each.
        self.accepted_ranges = (accepted,) if accepted_ranges is None else accepted_ranges
        self.refused_ranges = (refused,) if refused_ranges is None else refused_ranges


class WithdrawnError(TinkexError):
    """Never sent, because the operation it depends on was not accepted; that one's error is ``__cause__``."""


# In Python 3.11 concurrent.futures.TimeoutError became the built-in one; before, code catches either.
_Timeouts: Tuple[Type[BaseException], ...] = (
    (TimeoutError,)
    if issubclass(concurrent.futures.TimeoutError, TimeoutError)
    else (TimeoutError, concurrent.futures.TimeoutError)
)


class DeadlineExceeded(TinkexError, *_Timeouts):  # type: ignore[misc]
    """The caller's ``timeout=`` ran out."""

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        sent: str,
        request_id: Optional[str] = None,
        queue_state: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        #: What it was doing: "queued", "throttled", "sending", "retrying" or "polling".
        self.phase = phase
        #: "no" (withdrawn, nothing to undo), "unknown" or "yes".
        self.sent = sent
        self.request_id = request_id
        #: The last queue state the server reported, if any.
        self.queue_state = queue_state


class ClosedError(TinkexError):
    """The client was closed before or while it was used."""


class ForkedClientError(TinkexError):
    """A client made before a fork was used in the child."""


class MissingExtraError(TinkexError, ImportError):
    """An optional dependency is not installed; the text says which extra brings it."""


class ConfigError(TinkexError, ValueError):
    """A setting is wrong; the text names the argument or environment variable."""


class PluginError(TinkexError):
    """A plugin failed, and strict mode was asked for."""
