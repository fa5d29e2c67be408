"""The command ``sample``."""

from .command import sample

__all__ = ["sample"]
