"""Objects that are closed when the interpreter exits, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CLOSABLE = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
from tinkex_sync.concurrency.exit_closing import close_at_exit

class Closable:
    def __init__(self, name):
        self.name, self.closed = name, threading.Event()
        close_at_exit(self)

    def close(self):
        print("closed", self.name, flush=True)
        self.closed.set()

"""


def output_of(script):
    """Run a script after the definition of ``Closable``; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLOSABLE + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def test_objects_that_exist_at_exit_are_closed():
    assert sorted(output_of("kept = [Closable('a'), Closable('b')]")) == ["closed a", "closed b"]


def test_an_object_that_was_dropped_is_not_closed():
    assert output_of("dropped = Closable('a')\ndel dropped\nkept = Closable('b')") == ["closed b"]


def test_objects_are_closed_before_the_workers_of_executors_are_joined():
    # The worker ends only after close(). If it were joined first, the process would not exit.
    assert output_of("kept = Closable('a')\nThreadPoolExecutor(1).submit(kept.closed.wait)") == ["closed a"]


def test_an_object_of_a_main_thread_that_raises_is_closed():
    assert output_of("kept = Closable('a')\nraise SystemExit(0)") == ["closed a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_closes_only_its_own_objects():
    script = """
kept = Closable("parent's")
child = os.fork()
if child == 0:
    own = Closable("child's")
    raise SystemExit(0)
os.waitpid(child, 0)
"""
    assert output_of(script) == ["closed child's", "closed parent's"]


def test_an_object_made_during_shutdown_is_not_closed_and_raises_no_error():
    script = """
import atexit
atexit.register(lambda: kept.append(Closable("late")))
kept = []
"""
    assert output_of(script) == []
