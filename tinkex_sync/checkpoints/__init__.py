"""Checkpoints outside the server: downloads, and restarts of a corrupted training run."""

from .download import download_checkpoint
from .restart import RestartPolicy, RunCorruptedError

__all__ = ["RestartPolicy", "RunCorruptedError", "download_checkpoint"]
