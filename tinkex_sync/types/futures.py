"""Promises: what an accepted operation gives, and what polling it can answer."""

from dataclasses import dataclass, field
from enum import Enum
from typing import List, Optional, Union

from .training import (
    CreateModelResponse,
    ForwardBackwardOutput,
    LoadWeightsResponse,
    ModelID,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    UnloadModelResponse,
)
from .wire import LATER, Wire, coded

__all__ = [
    "FutureRetrieveRequest",
    "FutureRetrieveResponse",
    "QueueState",
    "RequestErrorCategory",
    "RequestFailedResponse",
    "RequestID",
    "TryAgainResponse",
    "UntypedAPIFuture",
]

RequestID = str


class QueueState(str, Enum):
    """Why an operation waits. A state we do not know reads as UNKNOWN."""

    ACTIVE = "active"
    PAUSED_RATE_LIMIT = "paused_rate_limit"
    PAUSED_CAPACITY = "paused_capacity"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "QueueState":
        return cls.UNKNOWN

    def __str__(self) -> str:
        return self.value


class RequestErrorCategory(str, Enum):
    """Whose fault a failed operation is. A category we do not know reads as Unknown."""

    Unknown = "unknown"
    Server = "server"
    User = "user"

    @classmethod
    def _missing_(cls, value: object) -> "RequestErrorCategory":
        return cls.Unknown

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, repr=False)
class UntypedAPIFuture(Wire):
    """The server accepted an operation; poll ``request_id`` for its result."""

    request_id: RequestID
    model_id: Optional[ModelID] = None
    #: What the server will call the completions of a sample, one by one; None where it does not say.
    sample_sequence_ids: Optional[List[str]] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class FutureRetrieveRequest(Wire):
    """``POST /api/v1/retrieve_future``."""

    request_id: RequestID


@dataclass(frozen=True, repr=False)
class TryAgainResponse(Wire):
    """Not done yet; poll again. Comes as a 200, or as the body of a 408 or 429, where keys may be missing."""

    request_id: Optional[RequestID] = None
    queue_state: QueueState = QueueState.UNKNOWN
    #: The server's own words on why it waits.
    queue_state_reason: Optional[str] = None
    type: str = "try_again"


@dataclass(frozen=True, repr=False)
class RequestFailedResponse(Wire):
    """The operation was accepted, and failed."""

    error: str = field(metadata=coded(lambda value: value if isinstance(value, str) else str(value)))
    category: RequestErrorCategory = RequestErrorCategory.Unknown


FutureRetrieveResponse = Union[
    TryAgainResponse,
    ForwardBackwardOutput,
    OptimStepResponse,
    SaveWeightsResponse,
    LoadWeightsResponse,
    SaveWeightsForSamplerResponse,
    CreateModelResponse,
    UnloadModelResponse,
    RequestFailedResponse,
]
