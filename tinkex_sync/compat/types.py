"""The types, under the names that the official package gives them."""

from typing import TYPE_CHECKING, Any, Literal

from .. import types as _types
from ..types import DynamicConfigResponse as ClientDynamicConfigResponse
from ..types import ServerConfigResponse as ClientConfigResponse

# From each module, because mypy does not follow a list of names that is made of other lists.
from ..types.array_views import *  # noqa: F403
from ..types.checkpoints import *  # noqa: F403
from ..types.futures import *  # noqa: F403
from ..types.inputs import *  # noqa: F403
from ..types.sampling import *  # noqa: F403
from ..types.server_config import *  # noqa: F403
from ..types.sessions import *  # noqa: F403
from ..types.telemetry import *  # noqa: F403
from ..types.tensors import *  # noqa: F403
from ..types.training import *  # noqa: F403
from .absent import AbsentMember, raise_absent

__all__ = ["ClientConfigResponse", "ClientDynamicConfigResponse", "SamplingClientKind"]
__all__ += _types.__all__

SamplingClientKind = Literal["snapshot", "inflight"]


# The types are those of the package itself, so the members are added here and not in a subclass.
for _type, _names in (
    (_types.Datum, "with_provenance model_input_spans loss_fn_input_spans"),
    (_types.SaveWeightsResponse, "get_console_url"),
    (_types.SaveWeightsForSamplerResponse, "get_console_url get_playground_url"),
):
    for _name in _names.split():
        setattr(_type, _name, AbsentMember(_name))


if not TYPE_CHECKING:  # With this function in view, a type checker would accept any name.

    def __getattr__(name: str) -> Any:
        raise_absent("module 'tinkex_sync.compat.types'", name)


# Importing modules such as tinker.types.tensor_data needs a path; names.py finds them.
__path__: "list[str]" = []
