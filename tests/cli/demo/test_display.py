"""The display of the demo: lines and a final chart without a terminal, a live chart on one."""

import io

from rich.console import Console

from tinkex_sync.cli.demo.display import shown_progress, supports_characters
from tinkex_sync.cli.demo.training import TrainingProgress


def run_display(console):
    progress = TrainingProgress()
    with shown_progress(console, progress) as show:
        for step in range(20):
            progress.losses.append(5.0 - step / 5)
            progress.complete = (step + 1) / 20
            show()
    return console.file.getvalue()


def test_lines_and_a_chart_are_printed_without_a_terminal():
    text = run_display(Console(file=io.StringIO(), width=40))
    lines = [line for line in text.splitlines() if line.startswith("  step")]
    assert 9 <= len(lines) <= 11, "one line for each tenth"
    assert lines[0] == "  step    1  loss per token 5.000"
    assert "└" in text


def test_a_chart_is_shown_on_a_terminal():
    text = run_display(Console(file=io.StringIO(), width=120, force_terminal=True, _environ={"TERM": "xterm"}))
    assert "step   20" in text
    assert "100%" in text


def test_an_encoding_without_block_characters_is_noticed():
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not supports_characters(Console(file=ascii_file), "█")
    assert supports_characters(Console(file=ascii_file), "a")
