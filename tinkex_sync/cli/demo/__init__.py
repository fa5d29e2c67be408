"""The command ``demo``: fine-tune and sample a tiny model on the embedded server."""

from .command import demo

__all__ = ["demo"]
