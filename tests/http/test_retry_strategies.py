"""Tenacity strategies of the user replace those of a policy, in training, polls and samples."""

import pytest
import tenacity
from scripted_server import Answer, bare_session

from tinkex_sync import APIStatusError, InternalServerError, RateLimitError, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.clients.training import TrainingClient
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.config import RetryStrategies

#: A 429 leaves no doubt whether a training request was carried out; samples have a rule of their own for it.
BUSY = {"submit": Answer(429, {"reason": "busy"}), "poll": Answer(503, {}), "sampling": Answer(503, {})}
ERROR = {"submit": RateLimitError, "poll": InternalServerError, "sampling": InternalServerError}
TEAPOT = Answer(418, {"reason": "teapot"})
STEP = Answer(body={"request_id": "rf-1"})
SAMPLE = Answer(body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]})


def is_teapot(error):
    return isinstance(error, APIStatusError) and error.status_code == 418


class Waits:
    """A wait strategy that records the attempts and errors it is called with."""

    def __init__(self):
        self.attempts, self.errors = [], []

    def __call__(self, retry_state):
        self.attempts.append(retry_state.attempt_number)
        self.errors.append(type(retry_state.outcome.exception()))
        return 1.0


def step(session):
    return TrainingClient(session, "model-1").optim_step(types.AdamParams())


def sample(session):
    client = SamplingClient(session, "sampler-1")
    return client.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))


def submitted_sample(session):
    client = SamplingClient(session, "sampler-1")
    future = client.submit_sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))
    return future.result(20)


#: Policy, operation, and the endpoint that fails.
CASES = [
    pytest.param("submit", step, "optim_step", id="submit"),
    pytest.param("poll", step, "retrieve_future", id="poll of a training operation"),
    pytest.param("sampling", sample, "asample", id="sampling"),
    pytest.param("sampling", submitted_sample, "asample", id="sampling, submitted"),
    pytest.param("poll", sample, "retrieve_future", id="poll of a sample"),
]


def run(policy, operate, endpoint, strategies, *answers):
    """Return the outcome of an operation and the number of requests to the endpoint that fails."""
    clock = ScaledClock(1000.0)
    # A second of a busy machine is a quarter of an hour of this clock: only strategies may end an operation.
    names = ("connect_timeout", "read_timeout", "poll_timeout", "progress_timeout", "retry_for", "poll_retry_for")
    timeouts = dict.fromkeys(names, 1e5)
    with bare_session(clock, retry_strategies={policy: strategies}, **timeouts) as (server, session):
        server.defaults.update(optim_step=STEP, asample=STEP)
        result = Answer(body={"metrics": {}}) if operate is step else SAMPLE
        server.defaults["retrieve_future"] = result
        if answers[-1] is None:
            server.script(endpoint, *answers[:-1])
        else:
            server.defaults[endpoint] = answers[-1]
        try:
            outcome = operate(session)
        except APIStatusError as error:
            outcome = error
        return outcome, len(server.sent(endpoint))


@pytest.mark.parametrize(("policy", "operate", "endpoint"), CASES)
def test_a_stop_strategy_replaces_the_time_limit(policy, operate, endpoint):
    strategies = RetryStrategies(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1.0))
    error, count = run(policy, operate, endpoint, strategies, BUSY[policy])
    assert isinstance(error, ERROR[policy])
    assert (error.attempts, count) == (3, 3)
    assert "gave up after 3 attempts" in str(error)


@pytest.mark.parametrize(("policy", "operate", "endpoint"), CASES)
def test_a_wait_strategy_gets_the_attempt_and_its_error(policy, operate, endpoint):
    waits = Waits()
    outcome, count = run(policy, operate, endpoint, RetryStrategies(wait=waits), *[BUSY[policy]] * 2, None)
    assert not isinstance(outcome, Exception)
    assert (waits.attempts, waits.errors, count) == ([1, 2], [ERROR[policy]] * 2, 3)


@pytest.mark.parametrize(("policy", "operate", "endpoint"), CASES)
def test_a_retry_strategy_can_make_a_transient_error_final(policy, operate, endpoint):
    never = RetryStrategies(retry=tenacity.retry_if_exception(is_teapot))
    error, count = run(policy, operate, endpoint, never, BUSY[policy])
    assert isinstance(error, ERROR[policy])
    assert count == 1


@pytest.mark.parametrize(("policy", "operate", "endpoint"), [case for case in CASES if case.values[0] != "poll"])
def test_a_retry_strategy_can_retry_an_error_that_is_final_by_default(policy, operate, endpoint):
    teapots = RetryStrategies(retry=tenacity.retry_if_exception(is_teapot), wait=tenacity.wait_fixed(1.0))
    outcome, count = run(policy, operate, endpoint, teapots, TEAPOT, TEAPOT, None)
    assert not isinstance(outcome, Exception)
    assert count == 3


def test_a_policy_without_strategies_of_the_user_keeps_its_own():
    strategies = RetryStrategies(stop=tenacity.stop_after_attempt(1))
    outcome, count = run("submit", sample, "asample", strategies, BUSY["sampling"], None)
    assert not isinstance(outcome, Exception)
    assert count == 2
