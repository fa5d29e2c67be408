"""Server futures: the reference to an accepted operation, and the responses of polling it."""

from dataclasses import field
from enum import Enum
from typing import List, Literal, Optional, Union

from . import training
from .wire import FastWire, Wire, coding, since

__all__ = [
    "CancelFutureRequest", "FutureRetrieveRequest", "FutureRetrieveResponse", "FuturesRetrieveRequest",
    "FuturesTarget", "QueueState", "RequestErrorCategory", "RequestFailedResponse", "RequestID",
    "TryAgainResponse", "UntypedAPIFuture",
]  # fmt: skip

RequestID = str


class _OpenEnum(str, Enum):
    """Base of enums whose value is "unknown" for a text that is not known."""

    @classmethod
    def _missing_(cls, value: object) -> "_OpenEnum":
        return cls("unknown")

    def __str__(self) -> str:
        return str(self.value)


class QueueState(_OpenEnum):
    """The reason why an operation waits. An unknown state is decoded as UNKNOWN."""

    ACTIVE = "active"
    PAUSED_RATE_LIMIT = "paused_rate_limit"
    PAUSED_CAPACITY = "paused_capacity"
    UNKNOWN = "unknown"


class RequestErrorCategory(_OpenEnum):
    """The cause of a failed operation. An unknown category is decoded as Unknown."""

    Unknown = "unknown"
    Server = "server"
    User = "user"


class UntypedAPIFuture(FastWire):
    """The server accepted an operation; ``request_id`` is polled for its result."""

    request_id: RequestID
    model_id: Optional[training.ModelID] = None
    #: The server's id of each completion of a sample; None if it sends none.
    sample_sequence_ids: Optional[List[str]] = field(default=None, metadata=since("0.38.0"))


class FutureRetrieveRequest(FastWire):
    """Body of ``POST /api/v1/retrieve_future``."""

    request_id: RequestID
    #: True if the response may be the size of a finished result instead of the result.
    allow_metadata_only: Optional[bool] = field(default=None, metadata=since("0.38.0"))


class FuturesTarget(Wire):
    """The sampling session whose futures are polled, and the copy of its client that polls (0 is the original)."""

    sampling_session_id: str
    cloned_sampler_id: int
    type: Literal["sampling_session"] = "sampling_session"

    wire_order = ("type",)


class FuturesRetrieveRequest(Wire):
    """Body of ``POST /api/v1/retrieve_futures`` (0.38.0), one poll for all samples of a sampling session."""

    target: FuturesTarget
    #: Position in the server's list of finished futures, from the previous response.
    prev_cursor: int
    #: Seconds for which the server may hold the poll; None for its own limit, 0.0 to only acknowledge results.
    timeout: Optional[float] = None
    #: Futures whose results have arrived, so that the server may delete them.
    retrieved_request_ids: List[RequestID] = field(default_factory=list)


class CancelFutureRequest(Wire):
    """Body of ``POST /api/v1/cancel_future`` (0.38.0)."""

    request_id: RequestID


class TryAgainResponse(FastWire):
    """The operation has not finished. Sent with status 200, or with 408 or 429, where keys may be missing."""

    request_id: Optional[RequestID] = None
    queue_state: QueueState = QueueState.UNKNOWN
    #: The server's explanation of why it waits.
    queue_state_reason: Optional[str] = None
    type: str = "try_again"


class RequestFailedResponse(FastWire):
    """The operation was accepted and then failed."""

    error: str = field(metadata=coding(lambda value: value if isinstance(value, str) else str(value)))
    category: RequestErrorCategory = RequestErrorCategory.Unknown


FutureRetrieveResponse = Union[
    TryAgainResponse,
    training.ForwardBackwardOutput,
    training.OptimStepResponse,
    training.SaveWeightsResponse,
    training.LoadWeightsResponse,
    training.SaveWeightsForSamplerResponse,
    training.CreateModelResponse,
    training.UnloadModelResponse,
    RequestFailedResponse,
]
