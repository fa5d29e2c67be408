"""Measure the cost of hooks: ``python benchmarks/hooks.py``.

The script prints the shortest time of many short rounds for these cases:

- one call site without plugins (budget 50 ns),
- one event with one plugin and with three plugins, with six arguments each (budget for three plugins 5 us),
- a direct call through pluggy, for comparison.

It exits with status 1 if a budget is exceeded.
"""

from __future__ import annotations

import sys
import timeit

import pluggy

from tinkex_sync.plugins import Source, hookimpl, hookspecs
from tinkex_sync.plugins.registry import Observers

SOURCE = Source("sampling", "session-1:sample:0", "session-1")
BUDGETS = {"no plugin": 50e-9, "3 plugins": 5e-6}


class Counting:
    """A plugin with almost no work."""

    def __init__(self) -> None:
        self.sent = 0

    @hookimpl
    def tinkex_request_finished(
        self, source: object, call_id: str, status: int, elapsed: float, sent_bytes: int, error: object
    ) -> None:
        self.sent += 1


# A site as in the client.
SITE = """
hook = observers.request_finished
if hook is not None:
    hook(source=SOURCE, call_id="c1", method="POST", path="/api/v1/asample", attempt=1, status=200, elapsed=0.1,
         sent_bytes=100, received_bytes=200, error=None)
"""


def cost(observers: Observers, number: int, rounds: int) -> float:
    """Seconds a site takes, the loop around it not counted."""
    names = {"observers": observers, "SOURCE": SOURCE}
    site, loop = (min(timeit.repeat(code, globals=names, number=number, repeat=rounds)) for code in (SITE, "pass"))
    return (site - loop) / number


def main(number: int = 10_000, rounds: int = 50) -> int:
    """Measure and print; the number of budgets exceeded."""
    exceeded = 0
    for count in (0, 1, 3):
        observers = Observers([Counting() for _ in range(count)], autoload=False, strict=False)
        name = "no plugin" if count == 0 else "1 plugin" if count == 1 else f"{count} plugins"
        seconds = cost(observers, number, rounds)
        budget = BUDGETS.get(name)
        over = budget is not None and seconds > budget
        exceeded += over
        limit = "" if budget is None else f"   (budget {budget * 1e9:,.0f} ns{', EXCEEDED' if over else ''})"
        print(f"{name:<24}{seconds * 1e9:>10,.0f} ns{limit}")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for _ in range(3):
        manager.register(Counting())
    theirs = Observers(autoload=False, strict=False)
    theirs.request_finished = manager.hook.tinkex_request_finished
    seconds = cost(theirs, number, rounds)
    print(f"{'3 plugins, pluggy alone':<24}{seconds * 1e9:>10,.0f} ns   (not isolated, for comparison)")
    print(f"Python {sys.version.split()[0]}, pluggy {pluggy.__version__}")
    return exceeded


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
