"""Plugins that observe a client: the hooks, their arguments, and the base class for plugins that do I/O."""

from .dispatch import PluginStatus
from .events import Boundary, Source
from .hookspecs import hookimpl
from .queued_observer import QueuedObserver, observe_all
from .registry import Observers

__all__ = ["Boundary", "Observers", "PluginStatus", "QueuedObserver", "Source", "hookimpl", "observe_all"]
