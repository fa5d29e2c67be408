"""The progress of sampling: lines without a terminal, with failures and the queue state."""

import pytest

from tinkex_sync.cli.output import Output
from tinkex_sync.cli.sample.progress import SampleProgress, shown_progress
from tinkex_sync.plugins.events import Source

SAMPLING = Source("sampling", "x", "s")


class ManualClock:
    now = 0.0

    def time(self):
        return self.now


@pytest.fixture
def clock():
    return ManualClock()


def test_a_line_is_printed_every_ten_seconds_and_at_the_end(clock, capsys):
    with shown_progress(Output(), clock, 4, 1) as progress:
        progress.advance(failed=False)
        assert capsys.readouterr().err == ""
        clock.now = 10.0
        progress.advance(failed=True)
        assert capsys.readouterr().err == "3 of 4 prompts, 1 failed\n"
        progress.advance(failed=False)
        assert capsys.readouterr().err == "4 of 4 prompts, 1 failed\n"


def test_the_queue_state_is_shown_until_the_queue_is_active(clock, capsys):
    progress = SampleProgress(Output(), clock, 2, 0)
    progress.tinkex_queue_state_changed(source=SAMPLING, state="paused_capacity", reason=None)
    progress.tinkex_queue_state_changed(source=Source("training", "y", "s"), state="active", reason=None)
    clock.now = 10.0
    progress.advance(failed=False)
    assert capsys.readouterr().err == "1 of 2 prompts (paused_capacity: no reason given)\n"
    progress.tinkex_queue_state_changed(source=SAMPLING, state="active", reason=None)
    progress.advance(failed=False)
    assert capsys.readouterr().err == "2 of 2 prompts\n"
