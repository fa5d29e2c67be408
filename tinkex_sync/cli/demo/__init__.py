"""The command ``demo``."""

from .command import demo

__all__ = ["demo"]
