"""The error of the engine."""

from __future__ import annotations


class EngineError(ValueError):
    """A request cannot be carried out because of its contents.

    The message names the datum or parameter, its value and the remedy, so the server returns it unchanged. The model is
    unchanged when it is raised: no gradient was accumulated, and no weight was updated.
    """
