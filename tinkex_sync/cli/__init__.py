"""The command line, ``tinkex-sync``. It needs click and rich: ``pip install "tinkex-sync[cli]"``."""

from __future__ import annotations

import importlib.util
import sys
from typing import Optional, Sequence

__all__ = ["main"]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run one command and exit with status 0, 1 (error), 2 (wrong usage) or 130 (Ctrl-C).

    Args:
        arguments: The arguments after the program name. None means ``sys.argv[1:]``.
    """
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        print(f'Error: the command line needs {names}: pip install "tinkex-sync[cli]"', file=sys.stderr)
        sys.exit(1)
    from .root import root

    root.main(arguments)
