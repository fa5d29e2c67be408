"""The official SDK's shape over our clients: ``import tinkex_sync.compat as tinker`` runs its scripts unchanged."""

from .. import errors as _errors
from ..errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestFailedError,
    UnprocessableEntityError,
)
from . import types
from .absent import absent as __getattr__
from .clients import SamplingClient, TrainingClient
from .futures import APIFuture
from .names import install, provide
from .rest import RestClient
from .service import ServiceClient
from .settings import NOT_GIVEN, NotGiven, Omit, RequestOptions, Timeout
from .types import (
    AdamOptimizerConfig,
    AdamParams,
    Checkpoint,
    CheckpointType,
    Datum,
    DimuonOptimizerConfig,
    DimuonParams,
    EncodedTextChunk,
    ForwardBackwardOutput,
    LoraConfig,
    ModelID,
    ModelInput,
    ModelInputChunk,
    OptimParams,
    OptimStepRequest,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
    SampledSequence,
    SampleRequest,
    SampleResponse,
    SamplingParams,
    StopReason,
    TensorData,
    TensorDtype,
    TrainingRun,
)

TinkerError = _errors.TinkexError
NoneType = type(None)
DEFAULT_TIMEOUT = Timeout(60.0, connect=5.0)
DEFAULT_MAX_RETRIES = 10

__title__ = "tinker"
#: Of the official SDK whose shape this has; ours is ``tinkex_sync.__version__``.
__version__ = "0.7.0"

#: Reachable under the official package's name too, but not among its public names.
_BESIDE = (NOT_GIVEN, NotGiven, Omit, install, provide)
#: Names of the newest official package, for scripts written for that.
_TODAY = (
    AdamOptimizerConfig,
    BillingError,
    DimuonOptimizerConfig,
    DimuonParams,
    OptimParams,
    RestClient,
    __getattr__,
)

__all__ = [
    "TrainingClient",
    "ServiceClient",
    "SamplingClient",
    "APIFuture",
    "AdamParams",
    "Checkpoint",
    "CheckpointType",
    "Datum",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "LoraConfig",
    "ModelID",
    "ModelInput",
    "ModelInputChunk",
    "OptimStepRequest",
    "OptimStepResponse",
    "ParsedCheckpointTinkerPath",
    "SampledSequence",
    "SampleRequest",
    "SampleResponse",
    "SamplingParams",
    "StopReason",
    "TensorData",
    "TensorDtype",
    "TrainingRun",
    "Timeout",
    "RequestOptions",
    "TinkerError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "APIConnectionError",
    "APIResponseValidationError",
    "RequestFailedError",
    "BadRequestError",
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
    "ConflictError",
    "UnprocessableEntityError",
    "RateLimitError",
    "InternalServerError",
    "types",
    "__version__",
    "__title__",
]

provide()
