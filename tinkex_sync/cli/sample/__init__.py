"""The command ``sample``: sample replies to a file of prompts."""

from .command import sample

__all__ = ["sample"]
