"""The command ``doctor``."""

from .command import doctor

__all__ = ["doctor"]
