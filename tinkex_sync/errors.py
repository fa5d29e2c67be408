"""Every exception that this package raises on purpose.

::

    TinkexError
    +-- APIError                        .message .body .request .attempts .elapsed
    |   +-- APIResponseValidationError  .status_code .path         (the response cannot be decoded)
    |   +-- APIStatusError              .status_code .request_id .retry_after .headers
    |   |   +-- BadRequestError 400, AuthenticationError 401, BillingError 402, PermissionDeniedError 403,
    |   |       NotFoundError 404, ConflictError 409, UnprocessableEntityError 422, RateLimitError 429,
    |   |       InternalServerError >= 500
    |   +-- APIConnectionError          .unsent .reused             (no response)
    |       +-- APITimeoutError         also TimeoutError
    +-- RequestFailedError              .request_id .category .body (the operation failed on the server)
    +-- PromiseExpiredError             .request_id                 (accepted, but the server has lost the result)
    +-- ResultLostError                 .request_id                 (the result was sent to a poll that failed)
    +-- OutcomeUnknownError             .seq_id                     (the operation may or may not have been applied)
    +-- PartialBatchError               .accepted .refused          (some chunks of a batch were accepted)
    +-- WithdrawnError                  (not sent, because an operation it depends on was not accepted)
    +-- DeadlineExceeded                also TimeoutError           .phase .sent .request_id .queue_state
    +-- ClosedError                     (the client was closed)
    +-- ForkedClientError               (the client was used in a forked child process)
    +-- ThreadStartError                also RuntimeError           (the system starts no more threads)
    +-- MissingExtraError               also ImportError            (an optional dependency is not installed)
    +-- ConfigError                     also ValueError             (a setting is invalid; the message names it)
    +-- PluginError                     (a plugin failed; strict mode only)

Invalid arguments raise ValueError or TypeError before a request is sent. All exceptions here can be pickled,
with their attributes and messages.
"""

from __future__ import annotations

import concurrent.futures
import copyreg
import json
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Type

#: The public exceptions; ``tinkex_sync`` and ``tinkex_sync.compat`` take their lists from here.
__all__ = [
    "APIConnectionError", "APIError", "APIResponseValidationError", "APIStatusError", "APITimeoutError",
    "AuthenticationError", "BadRequestError", "BillingError", "ClosedError", "ConfigError", "ConflictError",
    "DeadlineExceeded", "ForkedClientError", "InternalServerError", "MissingExtraError", "NotFoundError",
    "OutcomeUnknownError", "PartialBatchError", "PermissionDeniedError", "PluginError", "PromiseExpiredError",
    "RateLimitError", "RequestFailedError", "ResultLostError", "ThreadStartError", "TinkexError",
    "UnprocessableEntityError", "WithdrawnError",
]  # fmt: skip


class Polled(NamedTuple):
    """The server future that a poll was for."""

    request_id: str
    #: The kind of operation, such as "OptimStep".
    request_type: str
    #: Number of earlier polls of this server future.
    iteration: int


class TinkexError(Exception):
    """Base of all exceptions of this package."""

    #: The server future whose poll raised this error; None for other requests.
    polled: Optional[Polled] = None
    #: If ``train_step`` raised this, the state of its optimizer step: "not sent", "applied", "failed", "accepted" (its
    #: result was not awaited) or "unknown". Else None.
    optimizer_step: Optional[str] = None

    # Without a constructor in Python, inspect.signature() fails on the class.
    def __init__(self, *args: object) -> None:
        super().__init__(*args)

    def __reduce__(self) -> Tuple[Any, ...]:
        # The default calls the class with ``args`` only, which loses keyword-only attributes.
        return copyreg.__newobj__, (type(self),), {**self.__dict__, "args": self.args}  # type: ignore[attr-defined]


class SentRequest(NamedTuple):
    """Method and URL of a request. Headers are left out, because they contain the API key."""

    method: str
    url: str


class ErrorResponse(NamedTuple):
    """The parts of a response that an error keeps."""

    status_code: int
    headers: Mapping[str, str]
    body: Any
    request: Optional[SentRequest]

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body)

    def json(self) -> Any:
        """Return the decoded body; ValueError if it is not JSON."""
        return json.loads(self.body) if isinstance(self.body, str) else self.body


def _request_of(response: Any) -> Any:
    try:
        return getattr(response, "request", None)
    except RuntimeError:  # a response of httpx without a request
        return None


class APIError(TinkexError):
    """A request failed, or its response cannot be decoded."""

    def __init__(self, message: str, request: Any = None, *, body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        #: The decoded JSON of the response, its text if it is not JSON, or None if there was no response.
        self.body = body
        #: The request that failed, a :class:`SentRequest` unless another was given; None if no single request did.
        self.request = request
        #: Number of attempts, retries included.
        self.attempts = 1
        #: Seconds from the first attempt to the error.
        self.elapsed = 0.0


class APIResponseValidationError(APIError):
    """The server responded with status 2xx and a body that cannot be decoded."""

    def __init__(
        self,
        message: str = "Data returned by API invalid for expected schema.",
        *,
        response: Any = None,
        status_code: int = 200,
        body: Any = None,
        path: str = "",
    ) -> None:
        super().__init__(message, _request_of(response), body=body)
        self.status_code = status_code if response is None else response.status_code
        #: The place in the body, such as ``sequences[0].tokens``; "" for the whole body.
        self.path = path
        self._response = response

    @property
    def response(self) -> Any:
        """Return the response that was given, or status and body as an :class:`ErrorResponse`."""
        return self._response or ErrorResponse(self.status_code, {}, self.body, self.request)


class APIStatusError(APIError):
    """The server responded with a status other than 2xx.

    Args:
        response: A response, such as httpx's, from which status, headers and request are taken.
        status_code: The status; required without ``response``.
    """

    def __init__(
        self,
        message: str,
        response: Any = None,
        body: Any = None,
        *,
        status_code: Optional[int] = None,
        headers: Optional[Mapping[str, str]] = None,
        request_id: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message, _request_of(response), body=body)
        code = getattr(response, "status_code", None) if status_code is None else status_code
        if code is None:
            raise TypeError(f"{type(self).__name__} needs response= or status_code=")
        self.status_code: int = code
        #: Response headers, names in lower case.
        self.headers: Dict[str, str] = dict(headers or getattr(response, "headers", None) or {})
        self._response = response
        #: The server future that was polled; None for other requests.
        self.request_id = request_id
        #: Seconds to wait according to the response; None if it does not contain them.
        self.retry_after = retry_after
        #: "1.1" or "1.0"; None if it is not known.
        self.http_version: Optional[str] = None

    @property
    def response(self) -> Any:
        """Return the response that was given, or status, headers and body as an :class:`ErrorResponse`."""
        return self._response or ErrorResponse(self.status_code, self.headers, self.body, self.request)


class BadRequestError(APIStatusError):
    """400: the server rejected the request."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or invalid."""


class BillingError(APIStatusError):
    """402: the account needs a payment. Calls wait for it for a limited time before they raise this."""


class PermissionDeniedError(APIStatusError):
    """403: the API key does not permit the operation."""


class NotFoundError(APIStatusError):
    """404: the object or the endpoint does not exist."""


class ConflictError(APIStatusError):
    """409: the request conflicts with the state on the server."""


class UnprocessableEntityError(APIStatusError):
    """422: the server cannot process the body."""


class RateLimitError(APIStatusError):
    """429: a rate limit was exceeded."""


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


def status_error(status_code: int, *, body: Any, **details: Any) -> APIStatusError:
    """Return the exception for a response that is not 2xx, with its class by status and its message from the body.

    Args:
        body: Decoded JSON, or stripped text if the body is not JSON ("" if it is empty).
        details: Further arguments of :class:`APIStatusError`.
    """
    if isinstance(body, str):
        message = body or f"Error code: {status_code}"
    else:
        message = f"Error code: {status_code} - {body}"
    cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    return cls(message, status_code=status_code, body=body, **details)


class APIConnectionError(APIError):
    """There was no response: the connection could not be opened, or it broke."""

    def __init__(self, message: str = "Connection error.", *, request: Any = None, body: Any = None) -> None:
        super().__init__(message, request, body=body)
        #: True if no byte of the request can have reached the server (refused, DNS, TLS).
        self.unsent = False
        #: True if the connection had served an earlier request, so the server may have closed it as idle.
        self.reused = False
        #: True if a retry cannot succeed: a certificate is not valid, or a proxy requires a password.
        self.is_final = False


class APITimeoutError(APIConnectionError, TimeoutError):
    """There was no response in time."""

    def __init__(self, message: str = "Request timed out.", *, request: Any = None, body: Any = None) -> None:
        super().__init__(message, request=request, body=body)


class RequestFailedError(TinkexError):
    """The server accepted the operation, which then failed."""

    def __init__(
        self, message: str, request_id: Optional[str] = None, category: str = "unknown", *, body: Any = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        #: The cause: "user", "server" or "unknown". A value from the server is a ``types.RequestErrorCategory``, which
        #: equals its text.
        self.category = category
        self.body = body


class PromiseExpiredError(TinkexError):
    """The server accepted the operation and no longer has its result (410)."""

    def __init__(self, message: str, *, request_id: Optional[str] = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class ResultLostError(TinkexError):
    """The result was probably sent to a poll whose response did not arrive; it cannot be fetched again."""

    def __init__(self, message: str, *, request_id: Optional[str] = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class OutcomeUnknownError(TinkexError):
    """A training operation was sent and its response was lost; it may or may not have been applied."""

    def __init__(self, message: str, *, seq_id: Optional[int] = None) -> None:
        super().__init__(message)
        self.seq_id = seq_id


class PartialBatchError(TinkexError):
    """The server rejected a chunk of a batch after it had accepted other chunks.

    The gradients of the accepted datums stay on the server and become part of the next optimizer step. The error of the
    rejected chunk is ``__cause__``.
    """

    def __init__(
        self, message: str, *, accepted_ranges: Tuple[Tuple[int, int], ...], refused_ranges: Tuple[Tuple[int, int], ...]
    ) -> None:
        super().__init__(message)
        #: All accepted and rejected ranges; there may be several if chunks were sent concurrently.
        self.accepted_ranges = accepted_ranges
        self.refused_ranges = refused_ranges
        #: The first accepted datums: ``data[accepted[0]:accepted[1]]``, and the first rejected ones.
        self.accepted = accepted_ranges[0]
        self.refused = refused_ranges[0]


class WithdrawnError(TinkexError):
    """The operation was not sent, because the operation it depends on was not accepted; ``__cause__`` is its error."""


# Before Python 3.11, concurrent.futures.TimeoutError is a class of its own, and callers catch either.
_Timeouts = tuple(dict.fromkeys((TimeoutError, concurrent.futures.TimeoutError)))


class DeadlineExceeded(TinkexError, *_Timeouts):  # type: ignore[misc]
    """The caller's ``timeout=`` expired."""

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
        #: The state of the call: "queued", "throttled", "sending", "retrying" or "polling".
        self.phase = phase
        #: Whether the request was sent: "no" (it was withdrawn), "unknown" or "yes".
        self.sent = sent
        self.request_id = request_id
        #: The last queue state that the server returned; None if there was none.
        self.queue_state = queue_state


class ClosedError(TinkexError):
    """The client was closed before the call or during it."""


class ForkedClientError(TinkexError):
    """A client created before a fork was used in the child."""


class ThreadStartError(TinkexError, RuntimeError):
    """The system or the exiting interpreter started no thread, so the call failed. A later call tries again."""


class MissingExtraError(TinkexError, ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""


class ConfigError(TinkexError, ValueError):
    """A setting is invalid; the message names the argument or environment variable."""


class PluginError(TinkexError):
    """A plugin failed in strict mode."""
