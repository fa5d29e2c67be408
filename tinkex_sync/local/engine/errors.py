"""The one error of the engine."""

from __future__ import annotations


class EngineError(ValueError):
    """What the user asked for cannot be done.

    The text names the datum or parameter, its value and the remedy, so that the server can hand it on as it
    is. Nothing has changed in the model when it is raised: no gradient was accumulated, no weight moved.
    """
