"""The sampling client: both forms of a sample, requests, timeouts, withdrawal, many threads."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest
from imitations import NEITHER, PARAMS, SKYRL, Imitation, client, prompt

from tinkex_sync import (
    APIConnectionError,
    BadRequestError,
    DeadlineExceeded,
    PromiseExpiredError,
    RequestFailedError,
    hookimpl,
    types,
)
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.http.retry import RetryConfig

GONE = (410, {"detail": "promise expired"})
REFUSED = (429, {"detail": "slow down"}, {"Retry-After": "30"})


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


class Watch:
    """A plugin with an event that is set when a backoff starts."""

    def __init__(self):
        self.waits = threading.Event()

    @hookimpl
    def tinkex_backoff_started(self, everyone):
        if everyone:
            self.waits.set()


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def service(server, watch):
    # The fixture does not wait for samples that a test leaves unsent.
    with client(server, drain=0, plugins=[watch]) as made:
        yield made


@pytest.fixture
def sampler(service):
    return service.create_sampling_client(base_model="base")


def backwards(response, *tokens):
    return list(response.sequences[0].tokens) == list(tokens)[::-1]


def take_sample(sampler, way, *arguments, **settings):
    """Run one sample in one of its two forms."""
    if way == "blocking":
        return sampler.sample(*arguments, **settings)
    return sampler.submit_sample(*arguments, **settings).result(20)


BOTH = pytest.mark.parametrize("way", ["blocking", "submitted"])


@BOTH
def test_a_sample_is_sent_with_the_official_fields_in_their_order(server, sampler, way):
    params = types.SamplingParams(max_tokens=3, seed=1, stop=["\n"], temperature=0.5, top_k=2, top_p=0.9)
    response = take_sample(
        sampler, way, prompt(7, 8, 9), 2, params, include_prompt_logprobs=True, topk_prompt_logprobs=1
    )
    assert len(response.sequences) == 2
    assert backwards(response, 7, 8, 9)
    assert response.prompt_logprobs == [None, -1.0, -1.0]
    (endpoint, number, key, body), *_ = server.requests_to("asample")
    assert (endpoint, number) == ("asample", 0)
    assert key
    assert list(body) == [
        "num_samples",
        "prompt",
        "sampling_params",
        "sampling_session_id",
        "seq_id",
        "prompt_logprobs",
        "topk_prompt_logprobs",
    ]
    assert body["sampling_params"] == {
        "max_tokens": 3,
        "seed": 1,
        "stop": ["\n"],
        "temperature": 0.5,
        "top_k": 2,
        "top_p": 0.9,
    }
    assert body["sampling_session_id"] == sampler.sampling_session_id
    assert (body["num_samples"], body["prompt_logprobs"], body["topk_prompt_logprobs"]) == (2, True, 1)


def test_seq_ids_of_each_client_count_from_zero(server, service):
    samplers = [service.create_sampling_client(base_model="base") for _ in range(2)]
    for number in range(3):
        for sampler in samplers:
            take_sample(sampler, ("blocking", "submitted")[number % 2], prompt(), 1, PARAMS)
    assert sorted(server.sampled) == sorted(
        (sampler.sampling_session_id, number) for sampler in samplers for number in range(3)
    )
    requests = server.requests_to("create_sampling_session")
    assert [body["sampling_session_seq_id"] for _, _, _, body in requests] == [0, 1]


@BOTH
@pytest.mark.parametrize("column", [NEITHER, SKYRL], ids=["neither", "SkyRL"])
def test_log_probabilities_have_one_entry_per_prompt_token(column, way):
    with Imitation(column) as server, client(server) as service:
        sampler = service.create_sampling_client(base_model="base")
        if way == "blocking":
            found = sampler.compute_logprobs(prompt(1, 2, 3), timeout=20)
        else:
            found = sampler.submit_compute_logprobs(prompt(1, 2, 3), timeout=20).result(20)
        assert found == [None, -1.0, -1.0]
        body = server.requests_to("asample")[0][3]
        assert body["sampling_params"]["max_tokens"] == 1
        assert (body["num_samples"], body["prompt_logprobs"], body["topk_prompt_logprobs"]) == (1, True, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("hello", 1, PARAMS), TypeError, "use ModelInput.from_ints"),
        ((prompt(), 0, PARAMS), ValueError, "num_samples must be a whole number of at least 1, not 0"),
        ((prompt(), 1.0, PARAMS), ValueError, "num_samples"),
        ((prompt(), 1, {"max_tokens": 3}), TypeError, "must be SamplingParams, not dict"),
        ((prompt(), 1, PARAMS, False, -1), ValueError, "topk_prompt_logprobs"),
        ((types.ModelInput.empty(), 1, PARAMS), ValueError, "prompt is empty"),
    ],
)
@BOTH
def test_invalid_arguments_raise_before_a_request_is_sent(server, sampler, way, arguments, error, text):
    with pytest.raises(error, match=text):
        take_sample(sampler, way, *arguments)
    assert server.requests_to("asample") == []


@BOTH
@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan")])
def test_an_invalid_timeout_raises(server, sampler, way, timeout):
    with pytest.raises(ValueError, match="timeout must be a positive number"):
        take_sample(sampler, way, prompt(), 1, PARAMS, timeout=timeout)
    assert server.requests_to("asample") == []


@BOTH
@pytest.mark.parametrize("loss", ["before", "after", (503, "busy"), (500, {"detail": "oops"})])
def test_a_retried_sample_keeps_its_seq_id_and_idempotency_key(server, way, loss):
    with client(server, clock=ScaledClock(50)) as service:
        sampler = service.create_sampling_client(base_model="base")
        server.script["asample"] = [loss]
        assert backwards(take_sample(sampler, way, prompt(1, 2), 1, PARAMS), 1, 2)
        first, second = server.requests_to("asample")
        assert first == second


@BOTH
def test_a_lost_result_is_submitted_again_with_a_new_seq_id_at_most_twice(server, way):
    with client(server, clock=ScaledClock(50)) as service:
        sampler = service.create_sampling_client(base_model="base")
        server.script["retrieve_future"] = [GONE, GONE]
        assert backwards(take_sample(sampler, way, prompt(1, 2), 1, PARAMS), 1, 2)
        assert [number for number, _ in [(row[1], row[2]) for row in server.requests_to("asample")]] == [0, 1, 2]
        assert len({key for _, _, key, _ in server.requests_to("asample")}) == 3
        server.script["retrieve_future"] = [GONE] * 3
        with pytest.raises(PromiseExpiredError):
            take_sample(sampler, way, prompt(), 1, PARAMS)
        config = RetryConfig(enable_retry_logic=False)
        once = service.create_sampling_client(base_model="base", retry_config=config)
        server.script["retrieve_future"] = [GONE]
        with pytest.raises(PromiseExpiredError):
            take_sample(once, way, prompt(), 1, PARAMS)


@BOTH
def test_a_failure_is_raised_once_and_leaves_the_client_usable(server, sampler, way):
    server.script["asample"] = [(400, {"detail": "the prompt is too long"})]
    with pytest.raises(BadRequestError, match="too long"):
        take_sample(sampler, way, prompt(), 1, PARAMS)
    failed = {"error": "out of memory", "category": "server"}
    server.script["retrieve_future"] = [(200, failed)]
    with pytest.raises(RequestFailedError, match="out of memory") as caught:
        take_sample(sampler, way, prompt(), 1, PARAMS)
    assert caught.value.category == "server"
    assert take_sample(sampler, way, prompt(), 1, PARAMS)


@BOTH
def test_timeouts_in_every_phase(server, sampler, way):
    server.ready.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        take_sample(sampler, way, prompt(), 1, PARAMS, timeout=0.5)
    assert (caught.value.phase, caught.value.sent) == ("polling", "yes")
    assert caught.value.request_id in server.accepted_operations
    server.ready.set()
    server.script["asample"] = ["silent"]
    with pytest.raises(DeadlineExceeded) as caught:
        take_sample(sampler, way, prompt(), 1, PARAMS, timeout=0.5)
    assert (caught.value.phase, caught.value.sent) == ("sending", "unknown")
    server.script["asample"] = [REFUSED]
    with pytest.raises(DeadlineExceeded) as caught:
        take_sample(sampler, way, prompt(), 1, PARAMS, timeout=0.5)
    assert caught.value.phase == "throttled"
    # The requested backoff applies to all samples, so the next one is not sent.
    with pytest.raises(DeadlineExceeded) as caught:
        take_sample(sampler, way, prompt(), 1, PARAMS, timeout=0.1)
    assert (caught.value.phase, caught.value.sent) == ("throttled", "no")
    assert len(server.requests_to("asample")) == 3


def test_a_sample_that_waits_at_the_throttle_can_be_withdrawn(server, sampler, watch):
    server.script["asample"] = [REFUSED]
    first = sampler.submit_sample(prompt(), 1, PARAMS)
    assert watch.waits.wait(20)
    waiting = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(20)]
    assert all(future.cancel() for future in waiting)
    done, _ = wait(waiting, timeout=5)
    assert len(done) == 20
    with pytest.raises(CancelledError):
        waiting[0].result(0)
    assert not first.cancel()
    assert len(server.requests_to("asample")) == 1


def test_a_sent_sample_cannot_be_withdrawn(server, sampler):
    server.ready.clear()
    future = sampler.submit_sample(prompt(1, 2), 1, PARAMS)
    server.until(lambda: server.polls == 1)
    assert not future.cancel()
    assert future.request_id in server.accepted_operations
    server.ready.set()
    assert backwards(future.result(20), 1, 2)


def test_withdrawn_samples_use_no_seq_ids(server, sampler, watch):
    server.script["asample"] = [(429, {"detail": "slow down"}, {"Retry-After": "0.5"})]
    first = sampler.submit_sample(prompt(), 1, PARAMS)
    assert watch.waits.wait(20)
    for _ in range(10):
        assert sampler.submit_sample(prompt(), 1, PARAMS).cancel()
    last = sampler.submit_sample(prompt(), 1, PARAMS)
    assert first.result(20)
    assert last.result(20)
    assert sorted(number for _, number in server.sampled) == [0, 1]


def test_submitting_never_waits(server, sampler):
    server.script["asample"] = [REFUSED] * 50
    began = time.monotonic()
    futures = [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(500)]
    assert time.monotonic() - began < 2
    assert not any(future.done() for future in futures)
    for future in futures:
        future.cancel()


def test_many_threads_share_one_sampler(server, sampler):
    def draw(number):
        response = sampler.sample(prompt(number, 1), 1, PARAMS, timeout=30)
        return backwards(response, number, 1)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(draw, range(300)))
    assert sorted(number for _, number in server.sampled) == list(range(300))


def test_blocking_and_submitted_samples_can_be_mixed(server, sampler):
    futures = [sampler.submit_sample(prompt(number, 2), 1, PARAMS) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        mixed = pool.map(lambda number: sampler.sample(prompt(number, 1), 1, PARAMS, timeout=30), range(60))
        assert all(backwards(response, number, 1) for number, response in enumerate(mixed))
    assert all(backwards(future.result(30), number, 2) for number, future in enumerate(futures))


def test_at_most_max_dispatches_samples_are_dispatched_at_the_same_time(server):
    with client(server, max_dispatches=3, dispatchers=8) as service:
        sampler = service.create_sampling_client(base_model="base")
        gate, inside, most = threading.Event(), [0], [0]
        handle, lock = server.handle, threading.Lock()

        def counted(endpoint, body):
            if endpoint == "asample":
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                gate.wait(0.05)
                with lock:
                    inside[0] -= 1
            return handle(endpoint, body)

        server.handle = counted
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: sampler.sample(prompt(), 1, PARAMS), range(20)))
            [future.result(20) for future in [sampler.submit_sample(prompt(), 1, PARAMS) for _ in range(20)]]
        assert most == [3]


def test_a_poll_without_progress_fails_and_the_client_stays_usable(server):
    server.hold = 0.02
    with client(server, clock=ScaledClock(50)) as service:
        config = RetryConfig(progress_timeout=10.0)
        sampler = service.create_sampling_client(base_model="base", retry_config=config)
        server.ready.clear()
        with pytest.raises(APIConnectionError, match=r"No progress made in 10\.0s"):
            sampler.sample(prompt(), 1, PARAMS)
        server.ready.set()
        assert sampler.sample(prompt(), 1, PARAMS)


def test_callbacks_that_block_do_not_block_other_samples(server, sampler):
    free = threading.Event()
    for _ in range(8):
        sampler.submit_sample(prompt(), 1, PARAMS).add_done_callback(lambda _: free.wait(20))
    try:
        futures = [sampler.submit_sample(prompt(number), 1, PARAMS) for number in range(30)]
        assert all(backwards(future.result(10), number) for number, future in enumerate(futures))
    finally:
        free.set()


def test_the_result_of_a_sample_can_be_fetched_by_its_request_id(server, service, sampler):
    server.ready.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        sampler.sample(prompt(1, 2), 1, PARAMS, timeout=0.5)
    server.ready.set()
    assert backwards(service.resume_future(caught.value.request_id, "sample"), 1, 2)
