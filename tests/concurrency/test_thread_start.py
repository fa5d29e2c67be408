"""If the system starts no thread, the call fails with a typed error, and the next call works."""

import threading

import pytest
from imitations import ADAM, TUFT, Imitation, client, prompt, training
from imitations import PARAMS as SAMPLING

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.primitives import replace_primitives
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.concurrency.workers import Lane, Workers
from tinkex_sync.errors import ThreadStartError, TinkexError

pytestmark = pytest.mark.usefixtures("no_threads_left")


class _Refused(threading.Thread):
    def start(self):
        raise RuntimeError("can't start new thread")


@pytest.fixture
def no_thread():
    """Refuse every new thread whose name contains the text that ``no_thread(text)`` gets; None: refuse none."""
    refused = [None]

    def make_thread(**options):
        is_refused = refused[0] is not None and refused[0] in options["name"]
        return (_Refused if is_refused else threading.Thread)(**options)

    before = replace_primitives(make_thread=make_thread)
    yield lambda text: refused.__setitem__(0, text)
    replace_primitives(*before)


@pytest.mark.parametrize("kind", ["timer", "workers", "lane"])
def test_a_refused_thread_fails_only_its_own_job(no_thread, kind):
    clock, ran, done = Clock(), [], threading.Event()
    timer = Timer(clock)
    lane, workers = Lane("test"), Workers("test", clock, timer, active=2, limit=4)
    submit = {"timer": lambda job: timer.at(clock.time(), job), "workers": workers.submit, "lane": lane.submit}[kind]
    no_thread("tinkex-")
    with pytest.raises(ThreadStartError, match="cannot be started"):
        submit(lambda: ran.append("refused"))
    no_thread(None)
    assert submit(done.set)
    assert done.wait(10)
    assert ran == []
    for one in (lane, workers, timer):
        one.close()


def test_a_pool_with_a_thread_runs_a_job_for_which_no_second_thread_can_be_started(no_thread):
    clock = Clock()
    timer = Timer(clock)
    workers = Workers("test", clock, timer, active=2, limit=4)
    gate, started, done = threading.Event(), threading.Event(), threading.Event()
    workers.submit(lambda: (started.set(), gate.wait(10)))
    assert started.wait(10)
    no_thread("tinkex-")
    assert workers.submit(done.set)
    gate.set()
    assert done.wait(10)
    workers.close()
    timer.close()


@pytest.mark.parametrize("name", ["lane", "dispatch", "timer"])
def test_a_call_whose_thread_is_refused_fails_typed_and_the_next_call_works(no_thread, name):
    with Imitation(TUFT) as server, client(server) as service:
        model, sampler = training(service), service.create_sampling_client(base_model="base")
        call = {
            "lane": lambda: model.optim_step(ADAM),
            "dispatch": lambda: sampler.submit_sample(prompt(), 1, SAMPLING).result(10),
            "timer": lambda: model.submit_optim_step(ADAM, timeout=20).result(20),
        }[name]
        no_thread(name)
        try:
            call()
        except TinkexError as error:
            assert isinstance(error, ThreadStartError)
        no_thread(None)
        assert call()
        assert service.status()["open"] == []
