"""The official package's module paths, for scripts that import from them.

They work below ``tinkex_sync.compat`` (``from tinkex_sync.compat.types.tensor_data import TensorData``), and below
``tinker`` where this package is registered under that name: by :func:`install`, or by hand in ``sys.modules``.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import re
import sys
from types import ModuleType
from typing import Any, Dict, Mapping, Optional, Sequence

__all__ = ["install", "provide"]

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


def _module(path: str, content: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(f"{__package__}.{path}", "A module path of the official package.")
    module.__path__ = []
    module.__dict__.update(content, __all__=sorted(content))
    return module


@functools.cache
def _modules() -> Dict[str, ModuleType]:
    """The modules by what follows ``tinker.``."""
    from typing import Callable, Tuple

    from .. import compat, errors
    from ..http.retry import RetryConfig
    from . import clients, futures, holder, rest, settings, telemetry, types
    from . import service as official

    made: Dict[str, ModuleType] = {"types": types}
    known = {_snake(name): name for name in types.__all__}
    for module, names in {**known, **_TYPES}.items():
        content = {name: getattr(types, name) for name in names.split()}
        made[f"types.{module}"] = _module(f"types.{module}", content)
    exceptions = {
        name: value
        for name, value in vars(errors).items()
        if name in errors.__all__ and isinstance(value, type) and issubclass(value, BaseException)
    }
    retryable = {"RetryableException": errors.PromiseExpiredError}
    retries = {"RetryConfig": RetryConfig}
    observer = {"QueueState": types.QueueState, "QueueStateObserver": holder.QueueStateObserver}
    future = {name: getattr(futures, name) for name in ("APIFuture", "AwaitableConcurrentFuture")}
    shared = {"InternalClientHolder": holder.Holder}
    told = {"Telemetry": telemetry.Telemetry, "TelemetryProvider": holder.TelemetryProvider}
    service = {"ServiceClient": official.ServiceClient}
    training = {"TrainingClient": clients.TrainingClient}
    sampling = {"SamplingClient": clients.SamplingClient}
    checkpoints = {"RestClient": rest.RestClient}
    loss = Callable[[Any, Any], Tuple[Any, Dict[str, float]]]
    within = {**future, **told, "types": types}
    for path, content in {
        "_constants": {name: getattr(compat, name) for name in ("DEFAULT_TIMEOUT", "DEFAULT_MAX_RETRIES")},
        "_exceptions": {**exceptions, "TinkerError": errors.TinkexError},
        "_types": {name: getattr(settings, name) for name in settings.__all__ if name != "settings"},
        "_version": {name: getattr(compat, name) for name in ("__title__", "__version__")},
        "lib": {},
        "lib.api_future_impl": {**observer, **retryable, "APIFuture": futures.APIFuture, "types": types},
        "lib.internal_client_holder": {**shared, **told, "types": types},
        "lib.public_interfaces": {**future, **service, **training, **sampling},
        "lib.public_interfaces.api_future": future,
        "lib.public_interfaces.rest_client": {**within, **checkpoints},
        "lib.public_interfaces.sampling_client": {**within, **sampling, **observer, **retries},
        "lib.public_interfaces.service_client": {
            **within,
            **service,
            **training,
            **sampling,
            **checkpoints,
            **shared,
            **retries,
        },
        "lib.public_interfaces.training_client": {
            **within,
            **training,
            **sampling,
            **observer,
            **retries,
            "CustomLossFnV1": loss,
        },
        "lib.retry_handler": {**retries, **retryable},
        "lib.retryable_exception": retryable,
        "lib.telemetry": told,
        "lib.telemetry_provider": {"TelemetryProvider": holder.TelemetryProvider},
    }.items():
        made[path] = _module(path, content)
    return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of :func:`_modules`, under each name they have."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if self._relative(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # One module under several names: the empty one made for this name gives way to it.
        relative = self._relative(module.__name__)
        assert relative is not None
        sys.modules[module.__name__] = _modules()[relative]

    def _relative(self, fullname: str) -> Optional[str]:
        package = str(__package__)
        for name in (package, "tinker"):
            if fullname.startswith(name + ".") and sys.modules.get(name) is sys.modules[package]:
                relative = fullname[len(name) + 1 :]
                return relative if relative in _modules() else None
        return None


def provide() -> None:
    """Have the modules found from now on; for this package alone, once it is complete."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install() -> None:
    """Register this package as ``tinker``, with its module paths, for scripts that cannot be changed.

    Call it before anything imports ``tinker``. Calling it again does nothing.

    Raises:
        ImportError: the official package is imported already.
    """
    ours = sys.modules[str(__package__)]
    present = sys.modules.setdefault("tinker", ours)
    if present is not ours:
        raise ImportError(
            f"the official package is imported already, from {getattr(present, '__file__', None)}: call"
            " tinkex_sync.compat.install() before anything imports tinker"
        )
