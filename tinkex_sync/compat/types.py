"""The types under the name the official package has them."""

from typing import Literal

from .. import types as _types
from ..types import *  # noqa: F403
from ..types import DynamicConfigResponse as ClientDynamicConfigResponse
from ..types import ServerConfigResponse as ClientConfigResponse
from .absent import absent_type as __getattr__

__all__: "list[str]" = []
__all__ += _types.__all__

SamplingClientKind = Literal["snapshot", "inflight"]
#: Names of the newest official package.
_TODAY = (ClientConfigResponse, ClientDynamicConfigResponse, __getattr__)

# Modules are found below it: see names.py.
__path__: "list[str]" = []
