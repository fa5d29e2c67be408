"""Clients with the interface of the official SDK, for scripts that use ``import tinkex_sync.compat as tinker``."""

from typing import TYPE_CHECKING, Any

from .. import errors as _errors
from ..errors import *  # noqa: F403
from . import types
from .absent import raise_absent
from .futures import APIFuture
from .names import install as install
from .names import register_finder
from .rest import RestClient as RestClient
from .sampling import SamplingClient
from .service import ServiceClient
from .settings import NOT_GIVEN as NOT_GIVEN
from .settings import NotGiven as NotGiven
from .settings import Omit as Omit
from .settings import RequestOptions, Timeout
from .training import TrainingClient
from .types import AdamOptimizerConfig as AdamOptimizerConfig
from .types import (
    AdamParams,
    Checkpoint,
    CheckpointType,
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    LoraConfig,
    ModelID,
    ModelInput,
    ModelInputChunk,
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
from .types import DimuonOptimizerConfig as DimuonOptimizerConfig
from .types import DimuonParams as DimuonParams
from .types import OptimParams as OptimParams

TinkerError = _errors.TinkexError
NoneType = type(None)
DEFAULT_TIMEOUT = Timeout(60.0, connect=5.0)
DEFAULT_MAX_RETRIES = 10

__title__ = "tinker"
#: Version of the official SDK whose shape this package has. The version of this package is ``tinkex_sync.__version__``.
__version__ = "0.7.0"

__all__ = [
    "TrainingClient", "ServiceClient", "SamplingClient", "APIFuture", "AdamParams", "Checkpoint",
    "CheckpointType", "Datum", "EncodedTextChunk", "ForwardBackwardOutput", "LoraConfig", "ModelID",
    "ModelInput", "ModelInputChunk", "OptimStepRequest", "OptimStepResponse", "ParsedCheckpointTinkerPath",
    "SampledSequence", "SampleRequest", "SampleResponse", "SamplingParams", "StopReason", "TensorData",
    "TensorDtype", "TrainingRun", "Timeout", "RequestOptions", "TinkerError", "types", "__version__",
    "__title__",
]  # fmt: skip
__all__ += _errors.__all__


if not TYPE_CHECKING:  # With this function in view, a type checker would accept any name.

    def __getattr__(name: str) -> Any:
        raise_absent("module 'tinkex_sync.compat'", name)


register_finder()
