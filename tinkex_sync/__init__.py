"""Synchronous, threaded client for the Tinker API: LoRA fine-tuning and sampling over HTTP, with plugin hooks."""

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any, List

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import types
    from .checkpoints import RestartPolicy, RunCorruptedError, download_checkpoint
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
        BillingError,
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
    from .http.retry import RetryConfig
    from .plugins import hookimpl
    from .prompts import PromptBuilder, image_chunk, image_pointer

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
    "PromptBuilder",
    "RateLimitError",
    "RequestFailedError",
    "RestClient",
    "RestartPolicy",
    "ResultLostError",
    "RetryConfig",
    "RunCorruptedError",
    "SamplingClient",
    "ServiceClient",
    "TinkexError",
    "TrainStepOutput",
    "TrainingClient",
    "UnprocessableEntityError",
    "WithdrawnError",
    "download_checkpoint",
    "hookimpl",
    "image_chunk",
    "image_pointer",
    "types",
]

#: Which module each name comes from; it is imported when the name is first asked for, so that the command line, and
#: programs that need little, start at once. Submodules are found without being listed.
_FROM = {
    name: module
    for module, names in {
        "clients": "RestClient SamplingClient ServiceClient TrainingClient TrainStepOutput",
        "config": "Config",
        "errors": (
            "APIConnectionError APIError APIResponseValidationError APIStatusError APITimeoutError "
            "AuthenticationError BadRequestError BillingError ClosedError ConfigError ConflictError DeadlineExceeded "
            "ForkedClientError InternalServerError MissingExtraError NotFoundError OutcomeUnknownError "
            "PartialBatchError PermissionDeniedError PluginError PromiseExpiredError RateLimitError "
            "RequestFailedError ResultLostError TinkexError UnprocessableEntityError WithdrawnError"
        ),
        "futures": "Future",
        "plugins": "hookimpl",
        "prompts": "PromptBuilder image_chunk image_pointer",
        "checkpoints": "RestartPolicy RunCorruptedError download_checkpoint",
        "http.retry": "RetryConfig",
    }.items()
    for name in names.split()
}

if not TYPE_CHECKING:  # With this in sight, a type checker would believe in any name.

    def __getattr__(name: str) -> Any:
        if name in _FROM:
            found = getattr(importlib.import_module(f".{_FROM[name]}", __name__), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            found = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


logging.getLogger(__name__).addHandler(logging.NullHandler())
