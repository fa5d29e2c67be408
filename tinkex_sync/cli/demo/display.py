"""Show the loss while the demo trains: a live chart on a terminal, lines and a final chart elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, Iterator

from .chart import draw_chart

if TYPE_CHECKING:
    from rich.console import Console

    from .training import TrainingProgress

__all__ = ["shown_progress", "supports_characters"]


def supports_characters(console: Console, text: str) -> bool:
    """Return whether the encoding of the console contains all characters of ``text``."""
    try:
        text.encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


@contextmanager
def shown_progress(console: Console, progress: TrainingProgress) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step. It shows the present state of ``progress``."""
    unicode = supports_characters(console, "█")
    if console.is_terminal:
        from rich.live import Live
        from rich.text import Text

        def draw() -> Text:
            line = (
                f"step {len(progress.losses):4d}   loss per token {progress.recent_loss:.3f}   {progress.complete:4.0%}"
            )
            chart = draw_chart(progress.losses, unicode=unicode, complete=progress.complete)
            return Text(f"{chart}\n{line}")

        with Live(console=console, refresh_per_second=8) as live:
            yield lambda: live.update(draw())
        return
    printed = 0.0

    def print_line() -> None:
        nonlocal printed
        steps = len(progress.losses)
        if steps == 1 or progress.complete >= printed + 0.1:
            printed = progress.complete
            console.print(f"  step {steps:4d}  loss per token {progress.recent_loss:.3f}", soft_wrap=True)

    yield print_line
    console.print(draw_chart(progress.losses, unicode=unicode), soft_wrap=True)
