"""How far sampling has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Optional

from ...concurrency.clock import Clock
from ...plugins.hookspecs import Source, hookimpl
from ..output import Output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["SampleProgress", "shown_progress"]

#: Without a terminal: seconds between two lines.
_LINE_EVERY = 10.0


class SampleProgress:
    """Counts replies, and says so; a plugin too, that hears why the server makes us wait.

    The hook runs in threads of the client; all it does is hand a text to the bar, which has a lock of its own.
    """

    def __init__(self, output: Output, clock: Clock, total: int, done: int) -> None:
        self._output = output
        self._clock = clock
        self._total = total
        self._done = done
        self._failed = 0
        self._told = clock.time()
        self._state = ""
        self._bars: Optional[Progress] = None
        self._task: Optional[TaskID] = None

    def attach(self, bars: Progress) -> None:
        """Show it there from now on."""
        self._task = bars.add_task("sampling", total=self._total, completed=self._done)
        self._bars = bars

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, state: str, reason: Optional[str]) -> None:
        if source.kind == "sampling":
            self._state = "" if state == "active" else f"{state}: {reason or 'no reason given'}"
            self._show()

    def advance(self, failed: bool) -> None:
        """One more prompt is done with."""
        self._done += 1
        self._failed += failed
        self._show()
        now = self._clock.time()
        if self._bars is None and (now - self._told >= _LINE_EVERY or self._done == self._total):
            self._told = now
            self._output.note(f"{self._done} of {self._total} prompts{self._troubles()}")

    def _troubles(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return failed + (f" ({self._state})" if self._state else "")

    def _show(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task, completed=self._done, description=f"sampling{self._troubles()}", refresh=False
            )


@contextmanager
def shown_progress(output: Output, clock: Clock, total: int, done: int) -> Iterator[SampleProgress]:
    """Progress for the length of a ``with`` block."""
    progress = SampleProgress(output, clock, total, done)
    console = output.stderr()
    if not console.is_terminal:
        yield progress
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        progress.attach(bars)
        yield progress
