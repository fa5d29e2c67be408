"""Pools of workers that grow on demand, and lanes that keep order."""

import threading
import time

import pytest

from tinkex_sync.concurrency import workers as workers_module
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.concurrency.workers import Lane, Workers

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture
def pool():
    made = []

    def make(active, limit):
        timer = Timer(Clock())
        workers = Workers("test", Clock(), timer, active=active, limit=limit)
        made.extend([workers, timer])
        return workers

    yield make
    for one in made:
        one.close()


@pytest.fixture
def lane():
    made = Lane("test-lane")
    yield made
    made.close()


class Gate:
    """A job that counts its running calls and returns when ``open`` is set."""

    def __init__(self):
        self.open = threading.Event()
        self.changed = threading.Condition()
        self.inside = self.most = self.passed = 0

    def __call__(self):
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
        assert self.open.wait(20)
        with self.changed:
            self.inside -= 1
            self.passed += 1
            self.changed.notify_all()

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, 10), (self.inside, self.passed)


def test_all_jobs_run_and_at_most_limit_at_the_same_time(pool):
    workers, gate = pool(4, 4), Gate()
    for _ in range(50):
        assert workers.submit(gate)
    gate.until(lambda: gate.inside == 4)
    gate.open.set()
    gate.until(lambda: gate.passed == 50)
    assert gate.most == 4


def test_one_thread_runs_jobs_in_order_of_arrival(pool):
    workers, order, done = pool(1, 1), [], threading.Event()
    for index in range(100):
        workers.submit(lambda index=index: order.append(index))
    workers.submit(done.set)
    assert done.wait(10)
    assert order == list(range(100))


def test_more_threads_than_active_start_only_while_all_wait_for_the_network(pool):
    workers, busy, extra = pool(2, 6), Gate(), threading.Event()
    for _ in range(2):
        workers.submit(busy)
    busy.until(lambda: busy.inside == 2)
    workers.submit(extra.set)
    # Both threads compute, and a third would compete for the interpreter.
    assert not extra.wait(0.1)
    busy.open.set()
    assert extra.wait(10)

    waiting = Gate()

    def wait_for_the_network():
        with workers.waiting():
            waiting()

    for _ in range(9):
        workers.submit(wait_for_the_network)
    waiting.until(lambda: waiting.inside == 6)
    waiting.open.set()
    waiting.until(lambda: waiting.passed == 9)
    assert waiting.most == 6


def test_a_thread_survives_a_job_that_raises(pool, caplog):
    workers, done = pool(1, 1), threading.Event()
    workers.submit(lambda: 1 / 0)
    workers.submit(done.set)
    assert done.wait(10)
    assert "Background job failed" in caplog.text


def test_an_idle_thread_is_reused_and_ends_after_a_while(pool, monkeypatch):
    monkeypatch.setattr(workers_module, "_LINGER", 0.05)
    workers, seen = pool(8, 8), set()
    for _ in range(5):
        done = threading.Event()
        workers.submit(lambda done=done: (seen.add(threading.current_thread().name), done.set()))
        assert done.wait(10)
    ends, tick = time.monotonic() + 5, threading.Event()
    while workers._threads:
        assert time.monotonic() < ends
        tick.wait(0.005)
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(10)


def test_close_returns_queued_jobs_and_later_jobs_are_refused(pool):
    workers, gate = pool(1, 1), Gate()
    workers.submit(gate)
    gate.until(lambda: gate.inside == 1)
    ran = []
    jobs = [lambda: ran.append(1), lambda: ran.append(2)]
    for job in jobs:
        workers.submit(job)
    assert workers.close() == jobs
    assert workers.close() == []
    assert not workers.submit(lambda: ran.append(3))
    gate.open.set()
    gate.until(lambda: gate.passed == 1)
    assert ran == []


def test_a_finished_job_is_not_kept_alive_by_an_idle_thread(pool):
    import gc
    import weakref

    class Result:
        pass

    workers, done = pool(1, 1), threading.Event()
    result = Result()
    ref = weakref.ref(result)
    workers.submit(lambda result=result: done.set())
    del result
    assert done.wait(10)
    ends, tick = time.monotonic() + 5, threading.Event()
    while ref() is not None:
        assert time.monotonic() < ends
        gc.collect()
        tick.wait(0.005)


def test_threads_are_daemons_with_the_name_of_the_pool(pool):
    workers, seen, done = pool(1, 1), [], threading.Event()
    workers.submit(lambda: (seen.append(threading.current_thread()), done.set()))
    assert done.wait(10)
    assert seen[0].daemon
    assert seen[0].name.startswith("tinkex-test-")


def test_jobs_submitted_by_many_threads_all_run(pool):
    workers, count, lock, done = pool(3, 7), [0], threading.Lock(), threading.Event()

    def job():
        with workers.waiting(), lock:
            count[0] += 1
            if count[0] == 4000:
                done.set()

    threads = [threading.Thread(target=lambda: [workers.submit(job) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.wait(20), count


def test_a_lane_keeps_order_on_one_thread_at_a_time(lane):
    order, done, busy = [], threading.Event(), threading.Lock()

    def job(index):
        assert busy.acquire(blocking=False)
        order.append(index)
        busy.release()

    for index in range(0, 300, 3):
        assert lane.submit(*[lambda i=i: job(i) for i in range(index, index + 3)])
    lane.submit(done.set)
    assert done.wait(10)
    assert order == list(range(300))


def test_jobs_submitted_together_run_directly_after_one_another(lane):
    order, done = [], threading.Event()

    def submit(mark):
        for _ in range(100):
            lane.submit(*[lambda: order.append(mark)] * 3)

    threads = [threading.Thread(target=submit, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lane.submit(done.set)
    assert done.wait(10)
    assert len(order) == 1200
    assert all(len(set(order[index : index + 3])) == 1 for index in range(0, 1200, 3))


def test_a_lane_survives_a_job_that_raises(lane, caplog):
    done = threading.Event()
    lane.submit(lambda: 1 / 0, done.set)
    assert done.wait(10)
    assert "Background job failed" in caplog.text


def test_a_lane_whose_thread_has_ended_starts_again(lane, monkeypatch):
    monkeypatch.setattr(workers_module, "_LINGER", 0.001)
    tick = threading.Event()
    for index in range(200):
        done = threading.Event()
        lane.submit(done.set)
        assert done.wait(10)
        # About as long as an idle thread stays, so that some jobs arrive while it ends.
        tick.wait(0.0001 * (index % 20))


def test_closing_a_lane_returns_queued_jobs(lane):
    gate, ran = Gate(), []
    lane.submit(gate)
    gate.until(lambda: gate.inside == 1)
    jobs = [lambda: ran.append(1), lambda: ran.append(2)]
    lane.submit(*jobs)
    assert lane.close() == jobs
    assert lane.close() == []
    assert not lane.submit(lambda: ran.append(3))
    gate.open.set()
    gate.until(lambda: gate.passed == 1)
    assert ran == []
