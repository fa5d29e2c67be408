"""Show how far training has come: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Deque, Iterator, Optional, Tuple

from ...concurrency.clock import Clock
from ...plugins.hookspecs import hookimpl
from ..output import Output, visible_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["TrainProgress"]

#: Number of steps over which the rate is measured.
_RECENT_STEPS = 10


class TrainProgress:
    """Shows steps, loss, rate and queue state on standard error. It is also a plugin.

    Thread-safety: the main thread writes all fields but ``_queue``. The thread that polls replaces ``_queue`` as a
    whole, and readers read it once.

    Args:
        log_every: Number of steps between two lines where standard error is not a terminal.
        clock: Default: the system's clock.
    """

    def __init__(self, output: Output, log_every: int, clock: Optional[Clock] = None) -> None:
        self._output = output
        self._log_every = log_every
        self._clock = clock or Clock()
        self._console = output.stderr()
        #: State, reason, and the time of the change.
        self._queue: Tuple[str, Optional[str], float] = ("active", None, 0.0)
        #: Time of each recent step, and its number of tokens.
        self._times: Deque[Tuple[float, int]] = deque(maxlen=_RECENT_STEPS + 1)
        self._total = 0
        self._figures = "loss per token -"
        self._is_stopping = False
        self._bars: Any = None
        self._task: Any = None

    @hookimpl
    def tinkex_queue_state_changed(self, state: str, reason: Optional[str], waited: float) -> None:
        """Show the queue state, with the server's reason."""
        previous, self._queue = self._queue[0], (state, reason, self._clock.time() - waited)
        if self._bars is None and state != previous:
            text = f"active again after {waited:.0f} s" if state == "active" else f"{state}: {reason}"
            self._output.note(f"Queue {text}")

    @contextmanager
    def shown(self, step: int, total: int) -> Iterator[None]:
        """Show the progress until the ``with`` statement is left.

        Args:
            step: Number of steps that are finished.
            total: Number of steps of the run.
        """
        self._total = total
        self._times.append((self._clock.time(), 0))
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        line = self._line

        class StateColumn(ProgressColumn):
            def render(self, task: Any) -> RenderableType:
                return Text(visible_text(line()))

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(20), StateColumn())
        with Progress(*columns, console=self._console) as bars:
            self._task = bars.add_task("", total=total, completed=step)
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None

    def finish_step(self, step: int, loss: Optional[float], tokens: int) -> None:
        """Show that a step is finished.

        Args:
            step: Number of steps that are finished.
            loss: Loss per token of the step. None: not known.
            tokens: Number of tokens of the step.
        """
        self._times.append((self._clock.time(), tokens))
        elapsed = self._times[-1][0] - self._times[0][0]
        recent = sum(count for _, count in self._times) - self._times[0][1]
        loss_text = "-" if loss is None else f"{loss:.4f}"
        self._figures = f"loss per token {loss_text}  {recent / max(elapsed, 1e-9):,.0f} tokens/s"
        if self._bars is not None:
            self._bars.update(self._task, completed=step)
        elif len(self._times) == 2 or step % self._log_every == 0 or step == self._total:
            self._output.note(f"step {step:{len(str(self._total))}d} of {self._total}  {self._line()}")

    def finish_evaluation(self, step: int, loss: Optional[float]) -> None:
        """Show the loss per token of the validation file after ``step`` steps. None: not known."""
        self._output.note(f"validation after step {step}: loss per token {'-' if loss is None else f'{loss:.4f}'}")

    def show_interrupt(self) -> None:
        """Show that Ctrl-C was pressed. The signal handler calls it, so it uses no lock and no buffered stream."""
        self._is_stopping = True
        if self._bars is None:
            text = "Interrupted: the steps in flight are finished and saved. Ctrl-C again exits immediately.\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())

    def _line(self) -> str:
        state, reason, since = self._queue
        parts = [self._figures]
        waited = f" for {self._clock.time() - since:.0f} s: {reason}" if state != "active" else ""
        parts.append(f"queue {state}{waited}")
        if self._is_stopping:
            parts.append("finishing and saving (Ctrl-C again exits immediately)")
        return "  ".join(parts)
