"""Closing from any thread, within a second; draining; interpreter exit; dropping the last reference."""

import gc
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from imitations import ADAM, NEITHER, PARAMS, SKYRL, TUFT, Imitation, client, datums, prompt, training

from tinkex_sync import ClosedError, hookimpl

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture
def server():
    with Imitation(TUFT) as running:
        yield running


def timed(function):
    started = time.monotonic()
    result = function()
    return time.monotonic() - started, result


def until(condition):
    ends, tick = time.monotonic() + 20, threading.Event()
    while not condition():
        assert time.monotonic() < ends, "the condition was not met in time"
        tick.wait(0.005)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_close_with_300_polls_in_flight_takes_less_than_a_second(server, caplog):
    server.ready.clear()
    service = client(server)
    sampler = service.create_sampling_client(base_model="base")
    futures = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(300)]
    server.until(lambda: server.polls == 300, 60)
    took, left = timed(service.close)
    assert took < 1
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(5)
    assert len(left) == 300
    assert {one.sent for one in left} == {"yes"}
    assert {one.operation for one in left} == {"sample"}
    ids = {one.request_id for one in left}
    assert len(ids) == 300
    assert None not in ids
    (text,) = warnings_of(caplog)
    assert text.startswith("Closed with 300 calls unfinished (0 of them never sent)")
    assert sum(request_id in text for request_id in ids) == 5
    assert text.endswith("and 295 more, which close() returns")
    assert service.close() == []
    del futures, future
    gc.collect()
    assert len(warnings_of(caplog)) == 1


def test_blocking_calls_in_other_threads_end_with_closed_error(server, caplog):
    server.ready.clear()
    service = client(server)
    sampler = service.create_sampling_client(base_model="base")
    errors = []

    def sample():
        try:
            sampler.sample(prompt(), 1, PARAMS)
        except ClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=sample) for _ in range(50)]
    for thread in threads:
        thread.start()
    server.until(lambda: server.polls == 50, 30)
    took, left = timed(service.close)
    for thread in threads:
        thread.join(5)
    assert took < 1
    assert len(errors) == 50
    assert len(left) == 50


def test_waits_at_the_throttle_between_retries_and_in_the_lane_end_at_close(server):
    service = client(server, max_dispatches=1)
    model = training(service)
    sampler = service.create_sampling_client(base_model="base")
    server.script["asample"] = [(429, {"detail": "slow down"}, {"Retry-After": "50"})] * 9
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})] * 9
    futures = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(3)]
    futures += [model.submit_optim_step(ADAM), *model.submit_train_step(datums(2), "cross_entropy", ADAM)]
    until(
        lambda: (
            sorted(call.phase for call in service.session.open_calls())
            == ["queued"] * 2 + ["retrying"] + ["throttled"] * 3
        )
    )
    took, left = timed(service.close)
    assert took < 1
    assert len(left) == 6
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(5)
    assert server.numbers() == []
    assert sorted(one.operation for one in left if one.sent == "unknown") == ["optim_step"]
    assert sum(one.sent == "no" for one in left) == 5


def test_after_close_every_call_raises_closed_error(server):
    service = client(server)
    model = training(service)
    sampler = service.create_sampling_client(base_model="base")
    service.close()
    count = len(server.arrived)
    for call in (
        service.get_server_capabilities,
        service.submit_get_server_capabilities,
        lambda: service.create_lora_training_client("base"),
        lambda: sampler.sample(prompt(), 1, PARAMS),
        lambda: sampler.submit_sample(prompt(), 1, PARAMS),
        lambda: list(sampler.sample_many([prompt()])),
        lambda: model.forward_backward(datums(1), "cross_entropy"),
        lambda: model.submit_optim_step(ADAM),
        lambda: model.train_step(datums(1), "cross_entropy", ADAM),
        model.get_info,
        lambda: model.save_weights_and_get_sampling_client(),
    ):
        with pytest.raises(ClosedError):
            call()
    assert len(server.arrived) == count


@pytest.mark.parametrize("where", ["another thread", "a callback", "a hook", "two threads"])
def test_close_may_be_called_from_any_thread(server, where):
    box, closed = [], threading.Event()

    class Closer:
        @hookimpl
        def tinkex_chunk_sent(self, boundary):
            if where == "a hook":
                box.append(timed(service.close))
                closed.set()

    service = client(server, plugins=[Closer()])
    model = training(service)

    def close(*_):
        box.append(timed(service.close))
        closed.set()

    if where == "a callback":
        model.submit_optim_step(ADAM).add_done_callback(close)
    elif where == "a hook":
        future = model.submit_forward_backward(datums(1), "cross_entropy")
        with pytest.raises(ClosedError):
            future.result(5)
    else:
        threads = [threading.Thread(target=close) for _ in range(2 if where == "two threads" else 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert closed.wait(5)
    assert all(took < 1 for took, _ in box)
    with pytest.raises(ClosedError):
        model.optim_step(ADAM)


def test_callbacks_that_block_do_not_delay_close(server):
    server.ready.clear()
    service = client(server)
    sampler = service.create_sampling_client(base_model="base")
    release, entered = threading.Event(), threading.Event()
    futures = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(3)]
    futures[0].add_done_callback(lambda _: (entered.set(), release.wait(20)))
    server.until(lambda: server.polls == 3)
    took, _ = timed(service.close)
    assert took < 1
    assert entered.wait(5)
    release.set()
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(5)


def test_leaving_with_waits_until_everything_is_sent(server, caplog):
    with client(server, max_chunk_datums=1) as service:
        model = training(service)
        futures = [model.submit_forward_backward(datums(5), "cross_entropy") for _ in range(3)]
        last = model.submit_optim_step(ADAM)
    assert [number for number, _ in server.numbers()] == list(range(1, 17))
    for future in [*futures, last]:
        # Sent it was; whether the result came in time is another matter.
        error = future.exception(5)
        assert error is None or isinstance(error, ClosedError)
    assert "never sent" not in caplog.text or "(0 of them never sent)" in caplog.text


def test_leaving_with_waits_for_retries_of_submitted_calls(server):
    server.script["training"] = [(503, "busy", {"Retry-After": "0.3"}), (503, "busy", {"Retry-After": "0.3"})]
    with client(server) as service:
        training(service).submit_optim_step(ADAM)
    assert server.numbers() == [(1, "optim_step")]


def test_leaving_with_waits_no_longer_than_drain(server):
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})]
    started = time.monotonic()
    with client(server, drain=0.3) as service:
        future = training(service).submit_optim_step(ADAM)
    assert 0.3 <= time.monotonic() - started < 3
    assert isinstance(future.exception(5), ClosedError)


def test_an_interrupt_while_leaving_with_waits_closes_the_client(server, monkeypatch, no_threads_left):
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})]
    service = client(server)
    drain = service.session.drain

    def interrupted(seconds):
        drain(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(service.session, "drain", interrupted)
    with pytest.raises(KeyboardInterrupt), service:
        training(service).submit_optim_step(ADAM)
    with pytest.raises(ClosedError):
        service.get_server_capabilities()


def test_an_exception_does_not_wait(server):
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})]
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), client(server) as service:
        model = training(service)
        model.submit_optim_step(ADAM)
        model.submit_optim_step(ADAM)
        1 / 0  # noqa: B018
    assert time.monotonic() - started < 2
    assert server.numbers() == []


def test_leaving_with_after_close_does_not_wait(server):
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})]
    started = time.monotonic()
    with client(server) as service:
        model = training(service)
        model.submit_optim_step(ADAM)
        model.submit_optim_step(ADAM)
        service.close()
    assert time.monotonic() - started < 2


def test_cancelled_calls_are_not_counted_as_unfinished(server, caplog):
    server.script["training"] = [(503, "busy", {"Retry-After": "50"})]
    service = client(server)
    model = training(service)
    model.submit_optim_step(ADAM)
    server.until(lambda: server.requests_to("optim_step"))
    later = model.submit_save_state("one")
    assert later.cancel()
    left = service.close()
    assert [one.operation for one in left] == ["optim_step"]


def test_calls_that_begin_during_close_end_with_closed_error(server):
    """No call slips between the list of open ones and the end of all waits."""
    for _ in range(10):
        service = client(server)
        model = training(service)
        started, futures = threading.Barrier(5), []

        def submit(model=model, started=started, futures=futures):
            started.wait(5)
            try:
                while True:
                    futures.append(model.submit_optim_step(ADAM))
            except ClosedError:
                pass

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(5)
        service.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        for future in futures:
            error = future.exception(5)
            assert error is None or isinstance(error, ClosedError)


def test_close_cuts_tls_polls_within_a_second(tmp_path, caplog):
    from tls_certificate import certificate

    context, bundle = certificate(tmp_path)
    with Imitation(SKYRL) as server:
        server.use_tls(context)
        service = client(server, verify=str(bundle))
        server.ready.clear()
        sampler = service.create_sampling_client(base_model="base")
        futures = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(40)]
        server.until(lambda: server.polls == 40, 60)
        took, left = timed(service.close)
        assert took < 1
        assert len(left) == 40
        for future in futures:
            with pytest.raises(ClosedError):
                future.result(5)


def test_dropping_the_last_reference_closes_with_a_warning(server):
    service = client(server)
    sampler = service.create_sampling_client(base_model="base")
    sampler.sample(prompt(), 1, PARAMS)
    session_id = service.session_id
    del service
    gc.collect()
    # The sampling client needs the session still.
    sampler.sample(prompt(), 1, PARAMS)
    with pytest.warns(ResourceWarning, match=f"unclosed client of session '{session_id}'"):
        del sampler
        gc.collect()


def test_dropping_an_unclosed_client_closes_it_even_if_warnings_are_errors(server, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    service = client(server)
    training(service).optim_step(ADAM)
    registry = service.session.transport.registry
    del service
    gc.collect()
    # The fixture sees that no thread is left.
    assert registry.is_shut_down


def run(program, server, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, server.base_url, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
    )


EXIT = """
import logging, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from imitations import client, prompt, PARAMS
logging.basicConfig()
service = client(SimpleNamespace(base_url=sys.argv[1]))
sampler = service.create_sampling_client(base_model="base")
going = threading.Semaphore(0)

def sample():
    going.release()
    try:
        sampler.sample(prompt(), 1, PARAMS)
    except BaseException as error:
        print(type(error).__name__, flush=True)

if sys.argv[2] == "pool":
    pool = ThreadPoolExecutor(8)
    for _ in range(8):
        pool.submit(sample)
else:
    for _ in range(8):
        threading.Thread(target=sample).start()
for _ in range(8):
    going.acquire()
input()
print("leaving", time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("kind", ["pool", "threads"])
def test_the_interpreter_exits_promptly_with_calls_in_flight(server, kind):
    server.ready.clear()
    child = subprocess.Popen(
        [sys.executable, "-c", EXIT, server.base_url, kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
    )
    server.until(lambda: server.polls == 8, 30)
    output, complaints = child.communicate("\n", timeout=20)
    ended = time.monotonic()
    assert child.returncode == 0, complaints
    lines = output.split("\n")
    left_at = float(next(line for line in lines if line.startswith("leaving")).split()[1])
    assert lines.count("ClosedError") == 8
    assert ended - left_at < 3
    assert "Traceback" not in complaints
    assert "Closed with 8 calls unfinished" in complaints


def test_a_script_that_never_closes_exits_without_output(server):
    ended = run(
        "import sys\nfrom types import SimpleNamespace\nfrom imitations import *\n"
        "model = training(client(SimpleNamespace(base_url=sys.argv[1])))\n"
        "model.optim_step(ADAM)\nprint('done')",
        server,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_pool_around_the_client_drains_before_it_closes(server):
    """The order of the README: the pool outside, the client inside."""
    with ThreadPoolExecutor(8) as pool, client(server) as service:
        sampler = service.create_sampling_client(base_model="base")
        responses = list(pool.map(lambda n: sampler.sample(prompt(n, n + 1), 1, PARAMS), range(1, 41)))
    assert [response.sequences[0].tokens for response in responses] == [[n + 1, n] for n in range(1, 41)]


def test_closing_many_clients_leaves_no_thread(server):
    for _ in range(10):
        with client(server) as service:
            model = training(service)
            model.train_step(datums(2), "cross_entropy", ADAM)
            sampler = service.create_sampling_client(base_model="base")
            assert len(list(sampler.sample_many([prompt()] * 20))) == 20


def test_a_client_of_an_unreachable_server_closes_immediately(no_threads_left):
    """Ten thousand seconds of timeouts and a server that is gone."""
    with Imitation(NEITHER) as server:
        service = client(server)
        sampler = service.create_sampling_client(base_model="base")
    future = sampler.submit_sample(prompt(), 1, PARAMS, timeout=10_000)
    took, left = timed(service.close)
    assert took < 1
    assert len(left) == 1
    with pytest.raises(ClosedError):
        future.result(5)
