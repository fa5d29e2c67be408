"""Show how far sampling has come: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Optional

from ...concurrency.clock import Clock
from ...plugins import Source, hookimpl
from ..output import Output, visible_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["SampleProgress", "shown_progress"]

#: Seconds between two lines where standard error is not a terminal.
_LINE_INTERVAL = 10.0


class SampleProgress:
    """Counts finished prompts and shows the queue state. It is also a plugin.

    Thread-safety: the hook runs in threads of the client. It only replaces a text and updates the bar, which has a
    lock of its own. The other methods are called by one thread.

    Args:
        total: Number of prompts.
        done: Number of prompts that had responses before.
    """

    def __init__(self, output: Output, clock: Clock, total: int, done: int) -> None:
        self._output = output
        self._clock = clock
        self._total = total
        self._done = done
        self._failed = 0
        self._last_line = clock.time()
        self._queue_state = ""
        self._bars: Optional[Progress] = None
        self._task: Optional[TaskID] = None

    def show_in(self, bars: Progress) -> None:
        """Show the progress as a bar from now on."""
        self._task = bars.add_task("sampling", total=self._total, completed=self._done)
        self._bars = bars

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, state: str, reason: Optional[str]) -> None:
        """Show the queue state of the sampling clients, with the server's reason."""
        if source.kind == "sampling":
            self._queue_state = "" if state == "active" else f"{state}: {reason or 'no reason given'}"
            self._update_bar()

    def advance(self, failed: bool) -> None:
        """Count one more finished prompt."""
        self._done += 1
        self._failed += failed
        self._update_bar()
        now = self._clock.time()
        if self._bars is None and (now - self._last_line >= _LINE_INTERVAL or self._done == self._total):
            self._last_line = now
            self._output.note(f"{self._done} of {self._total} prompts{self._problems()}")

    def _problems(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return failed + (f" ({self._queue_state})" if self._queue_state else "")

    def _update_bar(self) -> None:
        if self._bars is not None and self._task is not None:
            description = visible_text(f"sampling{self._problems()}")
            self._bars.update(self._task, completed=self._done, description=description, refresh=False)


@contextmanager
def shown_progress(output: Output, clock: Clock, total: int, done: int) -> Iterator[SampleProgress]:
    """Yield a progress object, and show it as a bar if standard error is a terminal."""
    progress = SampleProgress(output, clock, total, done)
    console = output.stderr()
    if not console.is_terminal:
        yield progress
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        progress.show_in(bars)
        yield progress
