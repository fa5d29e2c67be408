"""The command line, ``tinkex-sync``. Needs click and rich: ``pip install "tinkex-sync[cli]"``."""

from __future__ import annotations

import importlib.util
import sys
from typing import Optional, Sequence

__all__ = ["main"]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run one command and exit: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C.

    Args:
        arguments: What follows the program's name; None takes them from ``sys.argv``.
    """
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        what = " and ".join(missing)
        print(f'Error: the command line needs {what}: pip install "tinkex-sync[cli]"', file=sys.stderr)
        sys.exit(1)
    from .root import root

    root.main(arguments)
