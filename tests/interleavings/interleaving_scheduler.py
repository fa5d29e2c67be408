"""Runs the threads of a scenario one step at a time, in an order drawn from a seed, on a clock of its own.

The locks, events and threads of the client come from ``concurrency.primitives``, so this module can replace them. A
thread runs until its next operation on a lock; then the seed decides which thread continues. Waits take no time: when
every thread waits, the clock jumps to the first timeout. The same seed gives the same schedule.
"""

import itertools
import random
import threading
import traceback

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.primitives import replace_primitives

__all__ = ["Failure", "Scheduler", "VirtualClock", "explore", "replay"]

#: Steps after which a schedule counts as endless.
MOST_STEPS = 20_000
#: The share of steps at which the next timeout is reached although threads could run: a slow machine.
EARLY_TIMEOUTS = 0.02


class Failure(AssertionError):
    """A schedule that breaks an invariant, or never ends."""


class _Thread:
    """A thread of the scenario. It has the interface of ``threading.Thread`` that the client uses."""

    def __init__(self, scheduler, target, args=(), name="thread", daemon=True):
        self.scheduler, self.target, self.args, self.name, self.daemon = scheduler, target, args, name, daemon
        self.turn = threading.Semaphore(0)
        #: The lock or the thread that it waits for, and the time at which the wait ends; None while it can run.
        self.waits_for = self.deadline = None
        self.timed_out = False
        self.has_ended = False
        self.order = []  # the locks that it holds

    def start(self):
        self.scheduler.start(self)

    def run(self):
        self.turn.acquire()
        try:
            self.target(*self.args)
        except BaseException as error:
            self.scheduler.fail(f"{self.name} raised {error!r}:\n{traceback.format_exc()}")
        finally:
            self.has_ended = True
            self.scheduler.next_thread()

    def is_alive(self):
        return not self.has_ended

    def join(self, timeout=None):
        self.scheduler.wait_until(lambda: self.has_ended, timeout)


class _Lock:
    """A lock whose operations are the steps of the schedule."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        #: Its name in the schedule. An address would not do: the address of a lock that is gone is given to the next.
        self.number = next(scheduler.lock_numbers)
        self.is_locked = False

    def acquire(self, blocking=True, timeout=-1):
        scheduler = self.scheduler
        scheduler.step(f"acquire {self.number}")
        if self.is_locked:
            if not blocking or timeout == 0:
                return False
            if not scheduler.wait_for(self, None if timeout < 0 else timeout):
                return False
        self.is_locked = True
        scheduler.note_acquired(self)
        return True

    def release(self):
        if not self.is_locked:
            raise RuntimeError("release unlocked lock")
        self.is_locked = False
        self.scheduler.note_released(self)
        self.scheduler.step(f"release {self.number}")

    def locked(self):
        return self.is_locked

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()


class VirtualClock(Clock):
    """The clock of a scheduler."""

    def __init__(self, scheduler):
        self._scheduler = scheduler

    def time(self):
        return self._scheduler.now

    def wait(self, event, timeout=None):
        return event.wait(timeout)


class Scheduler:
    """One run of a scenario."""

    def __init__(self, seed, check=lambda: None):
        self.seed = seed
        self.random = random.Random(seed)
        self.check = check
        self.now = 1000.0
        self.schedule = []
        self.failure = None
        self.steps = 0
        self.cannot_start = 0  # how many starts of threads fail
        #: Functions that "signal handlers" call in a thread, at one of its next steps.
        self.interrupts = {}
        self._threads = []
        self._current = None
        self.lock_numbers = itertools.count()
        self._acquired_after = {}  # for each lock, the locks acquired while it was held
        self._finished = threading.Event()
        self.clock = VirtualClock(self)

    # What scenarios use

    def run(self, main):
        """Run a function and every thread that it starts, to the end. Raises Failure."""
        before = replace_primitives(lambda: _Lock(self), lambda **given: _Thread(self, **given))
        try:
            thread = _Thread(self, main, (self,), "main")
            self._threads.append(thread)
            threading.Thread(target=thread.run, daemon=True).start()
            self._current = thread
            thread.turn.release()
            if not self._finished.wait(60.0):
                self.failure = self.failure or "the schedule did not end within 60 s"
        finally:
            replace_primitives(*before)
        if self.failure is not None:
            raise Failure(f"seed {self.seed}: {self.failure}\nschedule: {' '.join(self.schedule[-60:])}")

    def spawn(self, target, *args, name="thread"):
        """Start a thread of the scenario and return it."""
        thread = _Thread(self, target, args, name)
        self.start(thread, may_fail=False)
        return thread

    def pause(self, seconds=0.0):
        """Let other threads run; with ``seconds``, until that much time has passed."""
        if seconds:
            self.wait_until(lambda: False, seconds)
        else:
            self.step("pause")

    def wait_until(self, condition, timeout=None):
        """Wait for a condition, which is evaluated at each step; return whether it is true."""
        ends = None if timeout is None else self.now + timeout
        while not condition():
            if ends is not None and self.now >= ends:
                return False
            self._current.waits_for, self._current.deadline = condition, ends
            self.next_thread()
        return True

    def fail(self, text):
        """Record the first failure. The remaining threads still run, until the schedule ends."""
        self.failure = self.failure or text

    # What the primitives use

    def start(self, thread, may_fail=True):
        if may_fail and self.cannot_start > 0 and self.random.random() < 0.5:
            self.cannot_start -= 1
            raise RuntimeError("can't start new thread")
        self._threads.append(thread)
        threading.Thread(target=thread.run, daemon=True).start()
        self.step(f"start {thread.name}")

    def step(self, what):
        """One step of the current thread has ended; the seed chooses who continues."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            self.fail("the schedule does not end")
            self._finished.set()
            threading.Semaphore(0).acquire()  # the thread is left behind
        if self.failure is None:
            try:
                self.check()
            except AssertionError as error:
                self.fail(f"after {what} of {self._current.name}: {error}")
        self.schedule.append(f"{self._current.name}:{what};")
        if self._current in self.interrupts and self.random.random() < 0.2:
            self.interrupts.pop(self._current)()
        self.next_thread()

    def wait_for(self, lock, timeout):
        """Wait until a lock is free; return whether it is."""
        thread = self._current
        ends = None if timeout is None else self.now + timeout
        while lock.is_locked:
            if ends is not None and self.now >= ends:
                return False
            thread.waits_for, thread.deadline = lock, ends
            self.next_thread()
        return True

    def note_acquired(self, lock):
        held = self._current.order
        for earlier in held:
            later = self._acquired_after.setdefault(earlier.number, set())
            if lock.number in later:
                continue
            later.add(lock.number)
            if self._comes_before(lock.number, earlier.number):
                self.fail(f"locks {earlier.number} and {lock.number} are acquired in both orders")
        held.append(lock)

    def _comes_before(self, first, last):
        """Whether a lock was acquired, directly or through others, while another one was held."""
        seen, waiting = {first}, [first]
        while waiting:
            for number in self._acquired_after.get(waiting.pop(), ()):
                if number == last:
                    return True
                if number not in seen:
                    seen.add(number)
                    waiting.append(number)
        return False

    def note_released(self, lock):
        for thread in (self._current, *self._threads):
            if lock in thread.order:
                thread.order.remove(lock)
                return

    def next_thread(self):
        """Hand the turn to a thread that can run."""
        before = self._current
        alive = [thread for thread in self._threads if not thread.has_ended]
        self._threads = alive
        ready = [thread for thread in alive if self._can_run(thread)]
        timeouts = sorted({thread.deadline for thread in alive if thread.deadline is not None and thread not in ready})
        if timeouts and (not ready or self.random.random() < EARLY_TIMEOUTS):
            self.now = max(self.now, timeouts[0])
            ready = [thread for thread in alive if self._can_run(thread)]
        if not ready:
            if alive:
                waiting = ", ".join(thread.name for thread in alive)
                self.fail(f"these threads wait for ever: {waiting}")
            self._finished.set()
            if before.has_ended:
                return
            threading.Semaphore(0).acquire()  # a thread that waits for ever is left behind
        chosen = self.random.choice(ready)
        chosen.waits_for = chosen.deadline = None
        self._current = chosen
        if chosen is before:
            return
        chosen.turn.release()
        if not before.has_ended:
            before.turn.acquire()

    def _can_run(self, thread):
        if thread.waits_for is None or (thread.deadline is not None and self.now >= thread.deadline):
            return True
        if isinstance(thread.waits_for, _Lock):
            return not thread.waits_for.is_locked
        return bool(thread.waits_for())


def replay(scenario, seed, **arguments):
    """Run one schedule of a scenario, and raise its failure."""
    scheduler = Scheduler(seed)
    scheduler.run(lambda one: scenario(one, **arguments))
    return scheduler


def explore(scenario, count, first=0, **arguments):
    """Run schedules of a scenario with consecutive seeds; the first failure names the seed and how to run it again."""
    for seed in range(first, first + count):
        try:
            replay(scenario, seed, **arguments)
        except Failure as failure:
            command = f"python -m pytest tests/interleavings -k {scenario.__name__} --interleaving-seed {seed}"
            raise Failure(f"{failure}\nrun it again: {command}") from None
