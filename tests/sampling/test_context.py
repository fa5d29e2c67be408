"""The limit after which the samples of a client that makes no progress fail."""

from scripted_server import SteppedClock

from tinkex_sync.sampling.context import Progress


def test_the_limit_counts_from_the_first_running_sample_and_from_each_success():
    clock = SteppedClock()
    progress = Progress(clock.time, 10.0)
    clock.advance(100.0)
    progress.begin()
    started = clock.time()
    assert progress.gives_up_at() == started + 10.0
    clock.advance(4.0)
    progress.begin()  # another sample runs, so the limit does not start again
    assert progress.gives_up_at() == started + 10.0
    progress.end(success=True)
    assert progress.gives_up_at() == started + 14.0
    clock.advance(4.0)
    progress.end(success=False)
    assert progress.gives_up_at() == started + 14.0
    progress.begin()  # none was running
    assert progress.gives_up_at() == started + 18.0


def test_the_error_names_the_limit():
    assert "No progress made in 10.0s" in str(Progress(lambda: 0.0, 10.0).error())
