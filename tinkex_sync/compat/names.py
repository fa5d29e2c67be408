"""The official package's module paths, for scripts that import from them."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any, Dict, Mapping

__all__ = ["install"]

#: Submodules of ``tinker.types`` that hold more, or other, than the type they are named after.
_TYPES: Dict[str, str] = {
    "checkpoint": "Checkpoint CheckpointType ParsedCheckpointTinkerPath",
    "get_info_response": "GetInfoResponse ModelData",
    "get_server_capabilities_response": "GetServerCapabilitiesResponse SupportedModel",
    "optim_step_request": "OptimStepRequest AdamParams",
    "save_weights_for_sampler_response": "SaveWeightsForSamplerResponse SaveWeightsForSamplerResponseInternal",
    "shared": "UntypedAPIFuture",
    "shared.untyped_api_future": "UntypedAPIFuture",
}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _module(name: str, content: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name, "A module path of the official package.")
    module.__path__ = []
    module.__dict__.update(content)
    return module


def install() -> None:
    """Register this package as ``tinker``, with its module paths, for scripts that cannot be changed.

    Call it before anything imports ``tinker``. Calling it again does nothing.

    Raises:
        ImportError: the official package is imported already.
    """
    from .. import compat, errors
    from ..retry import RetryConfig
    from . import clients, futures, holder, rest, types

    present = sys.modules.get("tinker")
    if present is compat:
        return
    if present is not None:
        raise ImportError(
            f"the official package is imported already, from {getattr(present, '__file__', None)}: call"
            " tinkex_sync.compat.install() before anything imports tinker"
        )
    made: Dict[str, ModuleType] = {"tinker": compat, "tinker.types": types}
    known = {_snake(name): name for name in types.__all__}
    for module, names in {**known, **_TYPES}.items():
        content = {name: getattr(types, name) for name in names.split()}
        made[f"tinker.types.{module}"] = _module(f"tinker.types.{module}", content)
    observer = {"QueueState": types.QueueState, "QueueStateObserver": holder.QueueStateObserver}
    future = {name: getattr(futures, name) for name in ("APIFuture", "AwaitableConcurrentFuture")}
    public = {
        **future,
        "ServiceClient": clients.ServiceClient,
        "TrainingClient": clients.TrainingClient,
        "SamplingClient": clients.SamplingClient,
    }
    exceptions = {name: getattr(errors, name) for name in errors.__all__}
    for path, content in {
        "_exceptions": {**exceptions, "TinkerError": errors.TinkexError},
        "lib": {},
        "lib.retry_handler": {"RetryConfig": RetryConfig},
        "lib.retryable_exception": {"RetryableException": errors.PromiseExpiredError},
        "lib.api_future_impl": {**observer, "APIFuture": futures.APIFuture},
        "lib.internal_client_holder": {"InternalClientHolder": holder.Holder},
        "lib.public_interfaces": public,
        "lib.public_interfaces.api_future": future,
        "lib.public_interfaces.service_client": {**public, "RestClient": rest.RestClient},
        "lib.public_interfaces.training_client": public,
        "lib.public_interfaces.sampling_client": {**future, "SamplingClient": clients.SamplingClient},
        "lib.public_interfaces.rest_client": {**future, "RestClient": rest.RestClient},
    }.items():
        made[f"tinker.{path}"] = _module(f"tinker.{path}", content)
    for name, module_object in made.items():
        sys.modules[name] = module_object
        parent, _, last = name.rpartition(".")
        # What a package exports under the name of a submodule stays.
        if parent and last not in vars(made[parent]):
            setattr(made[parent], last, module_object)
