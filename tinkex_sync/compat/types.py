"""The types under the name the official package has them."""

from .. import types as _types
from ..types import *  # noqa: F403

__all__: "list[str]" = []
__all__ += _types.__all__

# Modules are found below it: see names.py.
__path__: "list[str]" = []
