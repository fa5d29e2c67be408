"""The types, under the names that the official package gives them."""

from typing import Any, Literal

from .. import types as _types
from ..types import *  # noqa: F403
from ..types import DynamicConfigResponse as ClientDynamicConfigResponse
from ..types import ServerConfigResponse as ClientConfigResponse
from .absent import raise_absent

__all__ = ["ClientConfigResponse", "ClientDynamicConfigResponse", "SamplingClientKind"]
__all__ += _types.__all__

SamplingClientKind = Literal["snapshot", "inflight"]


def __getattr__(name: str) -> Any:
    raise_absent("module 'tinkex_sync.compat.types'", name)


# Importing modules such as tinker.types.tensor_data needs a path; names.py finds them.
__path__: "list[str]" = []
