"""Observer plugins: the hooks, the events they receive, and how plugins are found and called."""

from .dispatch import PluginStatus
from .events import Boundary, Source
from .hookspecs import hookimpl
from .queued_observer import QueuedObserver
from .registry import Observers

__all__ = ["Boundary", "Observers", "PluginStatus", "QueuedObserver", "Source", "hookimpl"]
