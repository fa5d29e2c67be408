"""The module paths of the official package, for scripts that import from them.

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
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..http.retry import RetryConfig
from .absent import reason

__all__ = ["install", "register_finder"]

#: Submodules of ``tinker.types`` with other contents than the type of the same name.
_TYPE_MODULES: Dict[str, str] = {
    "checkpoint": "Checkpoint CheckpointType ParsedCheckpointTinkerPath",
    "get_info_response": "GetInfoResponse ModelData",
    "get_server_capabilities_response": "GetServerCapabilitiesResponse SupportedModel",
    "optim_step_request": "OptimStepRequest AdamParams",
    "save_weights_for_sampler_response": "SaveWeightsForSamplerResponse SaveWeightsForSamplerResponseInternal",
    "shared": "UntypedAPIFuture",
    "shared.untyped_api_future": "UntypedAPIFuture",
}
_FUTURES = "APIFuture AwaitableConcurrentFuture"
_TELEMETRY = "Telemetry TelemetryProvider"
_CLIENT = f"{_FUTURES} {_TELEMETRY} types"
_OBSERVER = "QueueState QueueStateObserver"
#: The other modules and their names.
_MODULES: Dict[str, str] = {
    "_constants": "DEFAULT_TIMEOUT DEFAULT_MAX_RETRIES",
    "_exceptions": " ".join(("TinkerError", *errors.__all__)),
    "_types": "NOT_GIVEN NotGiven Omit RequestOptions Timeout",
    "_version": "__title__ __version__",
    "lib": "",
    "lib.api_future_impl": f"{_OBSERVER} RetryableException APIFuture types",
    "lib.internal_client_holder": f"InternalClientHolder {_TELEMETRY} types",
    "lib.public_interfaces": f"{_FUTURES} ServiceClient TrainingClient SamplingClient",
    "lib.public_interfaces.api_future": _FUTURES,
    "lib.public_interfaces.rest_client": f"{_CLIENT} RestClient",
    "lib.public_interfaces.sampling_client": f"{_CLIENT} SamplingClient {_OBSERVER} RetryConfig",
    "lib.public_interfaces.service_client": (
        f"{_CLIENT} ServiceClient TrainingClient SamplingClient RestClient InternalClientHolder RetryConfig"
    ),
    "lib.public_interfaces.training_client": (
        f"{_CLIENT} TrainingClient SamplingClient {_OBSERVER} RetryConfig CustomLossFnV1"
    ),
    "lib.retry_handler": "RetryConfig RetryableException",
    "lib.retryable_exception": "RetryableException",
    "lib.telemetry": _TELEMETRY,
    "lib.telemetry_provider": "TelemetryProvider",
}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _objects() -> Dict[str, Any]:
    """Return the objects that the modules contain, by name."""
    # Imported here, because the package imports this module.
    from .. import compat
    from . import futures, holder, telemetry, types

    return {
        **vars(compat),
        "AwaitableConcurrentFuture": futures.AwaitableConcurrentFuture,
        "CustomLossFnV1": Callable[[Any, Any], Tuple[Any, Dict[str, float]]],
        "InternalClientHolder": holder.Holder,
        "QueueState": types.QueueState,
        "QueueStateObserver": holder.QueueStateObserver,
        "RetryConfig": RetryConfig,
        "RetryableException": errors.PromiseExpiredError,
        "Telemetry": telemetry.Telemetry,
        "TelemetryProvider": holder.TelemetryProvider,
    }


@functools.cache
def _modules() -> Dict[str, ModuleType]:
    """Return the modules by the part of their names that follows ``tinker.``."""
    objects = _objects()
    types = objects["types"]
    modules: Dict[str, ModuleType] = {"types": types}
    type_modules = {**{_snake(name): name for name in types.__all__}, **_TYPE_MODULES}
    for name, names in type_modules.items():
        modules[f"types.{name}"] = _module(f"types.{name}", names, vars(types))
    for path, names in _MODULES.items():
        modules[path] = _module(path, names, objects)
    return modules


def _module(path: str, names: str, objects: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(f"{__package__}.{path}", "A module path of the official package.")
    module.__path__ = []
    content = {name: objects[name] for name in names.split()}
    module.__dict__.update(content, __all__=sorted(content))
    return module


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of :func:`_modules` below ``tinkex_sync.compat`` and, where it is registered, ``tinker``."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if self._relative(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """Yield the metadata of ``tinker``, whose version scripts ask for, if this package is registered as it."""
        package = sys.modules[str(__package__)]
        if getattr(context, "name", None) == "tinker" and sys.modules.get("tinker") is package:
            from .metadata import TinkerDistribution

            yield TinkerDistribution(package.__version__)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # One module has several names: it replaces the empty module that the import system made for this name.
        relative = self._relative(module.__name__)
        assert relative is not None
        sys.modules[module.__name__] = _modules()[relative]

    def _relative(self, fullname: str) -> Optional[str]:
        package = str(__package__)
        for name in (package, "tinker"):
            if fullname.startswith(name + ".") and sys.modules.get(name) is sys.modules[package]:
                relative = fullname[len(name) + 1 :]
                explanation = reason(relative.partition(".")[0])
                if explanation and relative not in _modules():
                    raise ModuleNotFoundError(f"No module named {fullname!r}: {explanation}", name=fullname)
                return relative if relative in _modules() else None
        return None


def register_finder() -> None:
    """Make the modules importable. The package calls this at the end of its own import."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install() -> None:
    """Register this package as ``tinker``, with its module paths, for scripts that cannot be changed.

    Call it before any import of ``tinker``. Further calls have no effect. ``importlib.metadata.version("tinker")``
    returns the version of the official SDK whose interface this package has.

    Raises:
        ImportError: The official package was imported before.
    """
    ours = sys.modules[str(__package__)]
    present = sys.modules.setdefault("tinker", ours)
    if present is not ours:
        raise ImportError(
            f"the official package was imported already, from {getattr(present, '__file__', None)}: call"
            " tinkex_sync.compat.install() before any import of tinker"
        )
