"""``python -m tinkex_sync``: the command line."""

from .cli import main

main()
