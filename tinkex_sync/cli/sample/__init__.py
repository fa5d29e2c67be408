"""The command ``sample``: sample responses to a file of prompts."""

from .command import sample

__all__ = ["sample"]
