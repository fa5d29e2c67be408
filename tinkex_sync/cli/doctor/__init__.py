"""The command ``doctor``: check the connection to the server step by step."""

from .command import doctor

__all__ = ["doctor"]
