"""The progress of training: lines without a terminal, the rate, the queue state, and Ctrl-C."""

import os

import pytest

from tinkex_sync.cli.output import Output
from tinkex_sync.cli.train.progress import TrainProgress


class ManualClock:
    now = 0.0

    def time(self):
        return self.now


@pytest.fixture
def clock():
    return ManualClock()


def test_lines_are_printed_for_the_first_every_tenth_and_the_last_step(clock, capsys):
    progress = TrainProgress(Output(), 10, clock)
    with progress.shown(0, 25):
        for step in range(1, 26):
            clock.now += 0.5
            progress.finish_step(step, 1.5 if step > 1 else None, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step  1 of 25  loss per token -  200 tokens/s  queue active",
        "step 10 of 25  loss per token 1.5000  200 tokens/s  queue active",
        "step 20 of 25  loss per token 1.5000  200 tokens/s  queue active",
        "step 25 of 25  loss per token 1.5000  200 tokens/s  queue active",
    ]


def test_changes_of_the_queue_state_are_printed_once(clock, capsys):
    progress = TrainProgress(Output(), 1, clock)
    for waited in (0.0, 5.0):
        progress.tinkex_queue_state_changed(state="paused_capacity", reason="nightly works", waited=waited)
    clock.now = 7.0
    with progress.shown(0, 2):
        progress.finish_step(1, 1.0, 1)
    progress.tinkex_queue_state_changed(state="active", reason=None, waited=8.0)
    paused, line, active = capsys.readouterr().err.splitlines()
    assert paused == "Queue paused_capacity: nightly works"
    assert line.endswith("queue paused_capacity for 12 s: nightly works")
    assert active == "Queue active again after 8 s"


def test_ctrl_c_is_shown_without_a_lock_or_a_buffer(clock, capsys, monkeypatch):
    written = []
    monkeypatch.setattr(os, "write", lambda descriptor, text: written.append(text))
    progress = TrainProgress(Output(), 1, clock)
    progress.show_interrupt()
    assert b"Ctrl-C again exits immediately" in written[0]
    with progress.shown(0, 2):
        progress.finish_step(1, 1.0, 1)
    assert capsys.readouterr().err.rstrip().endswith("finishing and saving (Ctrl-C again exits immediately)")
