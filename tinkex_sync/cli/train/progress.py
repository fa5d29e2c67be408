"""How far training has come, shown while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Deque, Iterator, Optional, Tuple

from ...concurrency.clock import Clock
from ...plugins.hookspecs import hookimpl
from ..output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["TrainProgress"]

#: Steps over which the rate is measured.
_RECENT = 10


class TrainProgress:
    """Everything goes to stderr. It is a plugin, by which it hears of queue states.

    Invariant: the main thread alone writes its fields, but for ``_queue``, which is replaced as a whole by
    whichever thread polls; readers take one look.
    """

    def __init__(self, output: Output, every: int, clock: Optional[Clock] = None) -> None:
        self._output = output
        self._every = every
        self._clock = clock or Clock()
        self._console = output.stderr()
        self._queue: Tuple[str, Optional[str], float] = ("active", None, 0.0)
        self._times: Deque[Tuple[float, int]] = deque(maxlen=_RECENT + 1)
        self._steps = 0
        self._numbers = "loss per token -"
        self._stopping = False
        self._bars: Any = None
        self._task: Any = None

    @hookimpl
    def tinkex_queue_state_changed(self, state: str, reason: Optional[str], waited: float) -> None:
        before, self._queue = self._queue[0], (state, reason, self._clock.time() - waited)
        if self._bars is None and state != before:
            told = f"active again after {waited:.0f} s" if state == "active" else f"{state}: {reason}"
            self._output.note(f"Queue {told}")

    @contextmanager
    def shown(self, step: int, steps: int) -> Iterator[None]:
        """Show what goes on, from ``step`` of ``steps``, until the ``with`` statement is left."""
        self._steps = steps
        self._times.append((self._clock.time(), 0))
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        line = self._line

        class State(ProgressColumn):
            def render(self, task: Any) -> RenderableType:
                return Text(line())

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(20), State())
        with Progress(*columns, console=self._console) as bars:
            self._task = bars.add_task("", total=steps, completed=step)
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None

    def stepped(self, step: int, loss: Optional[float], tokens: int) -> None:
        """``step`` steps are done; the last one had this loss and took so many tokens."""
        self._times.append((self._clock.time(), tokens))
        elapsed = self._times[-1][0] - self._times[0][0]
        taken = sum(count for _, count in self._times) - self._times[0][1]
        shown = "-" if loss is None else f"{loss:.4f}"
        self._numbers = f"loss per token {shown}  {taken / max(elapsed, 1e-9):,.0f} tokens/s"
        if self._bars is not None:
            self._bars.update(self._task, completed=step)
        elif len(self._times) == 2 or step % self._every == 0 or step == self._steps:
            self._output.note(f"step {step:{len(str(self._steps))}d} of {self._steps}  {self._line()}")

    def interrupted(self) -> None:
        """Ctrl-C was pressed. Called by the signal handler, so it must not wait for a lock or print buffered."""
        self._stopping = True
        if self._bars is None:
            text = "Interrupted: what was sent is finished and saved; Ctrl-C again leaves at once.\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())

    def _line(self) -> str:
        state, reason, since = self._queue
        parts = [self._numbers]
        waited = f" for {self._clock.time() - since:.0f} s: {reason}" if state != "active" else ""
        parts.append(f"queue {state}{waited}")
        if self._stopping:
            parts.append("finishing and saving (Ctrl-C again leaves at once)")
        return "  ".join(parts)
