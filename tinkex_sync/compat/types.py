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
from .absent import raise_absent

__all__ = ["ClientConfigResponse", "ClientDynamicConfigResponse", "SamplingClientKind"]
__all__ += _types.__all__

SamplingClientKind = Literal["snapshot", "inflight"]


if not TYPE_CHECKING:  # With this function in view, a type checker would accept any name.

    def __getattr__(name: str) -> Any:
        raise_absent("module 'tinkex_sync.compat.types'", name)


# Importing modules such as tinker.types.tensor_data needs a path; names.py finds them.
__path__: "list[str]" = []
