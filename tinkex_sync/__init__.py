"""Synchronous, threaded client for the Tinker API: LoRA fine-tuning and sampling over HTTP, with plugin hooks."""

import logging

from . import types
from ._version import __version__
from .clients import RestClient, SamplingClient, ServiceClient, TrainingClient, TrainStepOutput
from .config import Config
from .errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ClosedError,
    ConfigError,
    ConflictError,
    DeadlineExceeded,
    ForkedClientError,
    InternalServerError,
    MissingExtraError,
    NotFoundError,
    OutcomeUnknownError,
    PartialBatchError,
    PermissionDeniedError,
    PluginError,
    PromiseExpiredError,
    RateLimitError,
    RequestFailedError,
    ResultLostError,
    TinkexError,
    UnprocessableEntityError,
    WithdrawnError,
)
from .futures import Future
from .hookspecs import hookimpl
from .retry import RetryConfig

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ClosedError",
    "Config",
    "ConfigError",
    "ConflictError",
    "DeadlineExceeded",
    "ForkedClientError",
    "Future",
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
    "RestClient",
    "ResultLostError",
    "RetryConfig",
    "SamplingClient",
    "ServiceClient",
    "TinkexError",
    "TrainStepOutput",
    "TrainingClient",
    "UnprocessableEntityError",
    "WithdrawnError",
    "__version__",
    "hookimpl",
    "types",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
