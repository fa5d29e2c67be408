"""Synchronous, threaded client for the Tinker API: LoRA fine-tuning and sampling over HTTP, with plugin hooks."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, List

from . import errors
from ._version import __version__ as __version__
from .errors import *  # noqa: F403
from .logs import log_to_stderr

if TYPE_CHECKING:
    from . import types
    from .checkpoints import RestartPolicy, RunCorruptedError, download_checkpoint
    from .clients import RestClient, SamplingClient, ServiceClient, TrainingClient, TrainStepOutput
    from .config import Config
    from .futures import Future
    from .http.retry import RetryConfig
    from .plugins import hookimpl
    from .prompts import PromptBuilder, image_chunk, image_pointer

__all__ = [
    "Config", "Future", "PromptBuilder", "RestClient", "RestartPolicy", "RetryConfig", "RunCorruptedError",
    "SamplingClient", "ServiceClient", "TrainStepOutput", "TrainingClient", "download_checkpoint", "hookimpl",
    "image_chunk", "image_pointer", "types",
]  # fmt: skip
__all__ += errors.__all__

#: The module of each other name. It is imported when the name is first used, so that small programs start quickly.
#: Submodules are found without being listed.
_FROM = {
    name: module
    for module, names in {
        "clients": "RestClient SamplingClient ServiceClient TrainingClient TrainStepOutput",
        "config": "Config",
        "futures": "Future",
        "plugins": "hookimpl",
        "prompts": "PromptBuilder image_chunk image_pointer",
        "checkpoints": "RestartPolicy RunCorruptedError download_checkpoint",
        "http.retry": "RetryConfig",
    }.items()
    for name in names.split()
}

if not TYPE_CHECKING:  # With this function in view, a type checker would accept any name.

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


log_to_stderr()
