"""The command ``train``: fine-tune a model on a file."""

from .command import train

__all__ = ["train"]
