"""A local web page that shows runs of tinkex_sync, live or from files that tinkex-sync-jsonl has written."""

from .plugin import Dashboard

__all__ = ["Dashboard"]
