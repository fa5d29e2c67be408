"""Lost responses, pauses, timeouts, expired sessions and restarted servers."""

import threading
import time

import pytest
from event_recorder import EventRecorder
from imitations import client
from lessons import ADAM, GREEDY, MODEL, current_logprobs, datum, datums, model, prompt

from tinkex_sync import (
    ClosedError,
    DeadlineExceeded,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitError,
    ResultLostError,
    TinkexError,
    WithdrawnError,
    hookimpl,
)
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.local import Faults

POSTS = (
    "create_session",
    "create_model",
    "get_info",
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "load_weights",
    "weights_info",
    "save_weights_for_sampler",
    "create_sampling_session",
    "asample",
)
TRAINING = {"forward", "forward_backward", "optim_step", "save_weights", "load_weights", "save_weights_for_sampler"}


def run_every_operation(service, attempt):
    """Run every operation once, each by ``attempt(endpoint, operation)``, which may repeat it."""
    learner = attempt("create_model", lambda: model(service))
    attempt("get_info", learner.get_info)
    attempt("forward", lambda: learner.forward([datum()], "cross_entropy"))
    attempt("forward_backward", lambda: learner.forward_backward([datum()], "cross_entropy"))
    attempt("optim_step", lambda: learner.optim_step(ADAM))
    names = iter(["state", "state-again"])
    saved = attempt("save_weights", lambda: learner.save_state(next(names))).path
    attempt("load_weights", lambda: learner.load_state_with_optimizer(saved))
    rest = service.create_rest_client()
    attempt("weights_info", lambda: rest.get_weights_info_by_tinker_path(saved))
    more = iter(["sampler", "sampler-again"])
    path = attempt("save_weights_for_sampler", lambda: learner.save_weights_for_sampler(next(more))).path
    sampler = attempt("create_sampling_session", lambda: service.create_sampling_client(model_path=path))
    attempt("asample", lambda: sampler.sample(prompt(), 1, GREEDY))
    return learner


def test_lost_requests_are_sent_again(imitated):
    for endpoint in (*POSTS, "retrieve_future", "get_server_capabilities"):
        imitated.script[endpoint] = ["before"]
    with client(imitated, clock=ScaledClock(20)) as service:
        service.get_server_capabilities()
        run_every_operation(service, lambda _, operation: operation())
    assert not any(imitated.script.values())
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4, 5, 6]


def test_lost_responses_are_recovered_or_raise_outcome_unknown_error(imitated):
    for endpoint in POSTS:
        imitated.script[endpoint] = ["after"]
    unknown = []

    def attempt(endpoint, operation):
        try:
            return operation()
        except OutcomeUnknownError as error:
            unknown.append(endpoint)
            assert "may or may not have been applied" in str(error)
            return operation()

    with client(imitated, clock=ScaledClock(20)) as service:
        learner = run_every_operation(service, attempt)
        assert current_logprobs(learner)
    assert not any(imitated.script.values())
    numbers = [number for number, _ in imitated.numbers()]
    if imitated.profile.numbers in ("consecutive", "late"):
        # The server cannot report whether the operation was done, so the caller must decide.
        # The list of checkpoints shows that the saves were.
        assert set(unknown) == TRAINING - {"save_weights", "save_weights_for_sampler"}
        assert numbers == list(range(1, 12))
    else:
        assert unknown == []
        twice = 2 if imitated.profile.numbers == "none" else 1
        assert numbers == [number for number in range(1, 7) for _ in range(twice)] + [7]


def test_result_in_a_lost_response_is_polled_again_or_raises_result_lost_error(imitated, quick):
    learner = model(quick)
    # A long hold, so that the interrupted poll is the one that returns the result.
    imitated.hold = 5.0
    imitated.script["retrieve_future"] = ["after"]
    if imitated.profile.once:
        with pytest.raises(ResultLostError, match="sent in a response that was lost"):
            learner.forward_backward([datum()], "cross_entropy")
    else:
        learner.forward_backward([datum()], "cross_entropy")
    learner.optim_step(ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2]


def test_client_waits_for_a_checkpoint_that_is_being_written(imitated, quick):
    learner = model(quick)
    imitated.script["retrieve_future"] = [(425, {"detail": "Checkpoint is still being created"})] * 3
    assert learner.save_state("slow").path
    assert not imitated.script["retrieve_future"]


def test_temporary_errors_are_retried(imitated, quick):
    learner = model(quick)
    imitated.script["training"] = [(500, "oops"), (502, "<html>bad gateway</html>"), (503, {"detail": "busy"})]
    learner.train_step([datum()], "cross_entropy", ADAM)
    imitated.script["retrieve_future"] = [(500, {"detail": "oops"}), (504, ""), (429, {"detail": "slow down"})]
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4]


def test_observers_receive_the_queue_states_that_the_server_returns(imitated, server):
    recorder = EventRecorder()

    class Watch:
        @hookimpl
        def tinkex_queue_state_changed(self, state, reason, reason_source):
            recorder.record(state, reason if reason_source == "server" else reason_source)

    imitated.hold, imitated.queued_limit = min(imitated.hold, 0.1), imitated.queued_limit and 0
    with client(imitated, plugins=[Watch()]) as service:
        learner = model(service)
        sampler = service.create_sampling_client(base_model=MODEL)
        recorder.events.clear()
        for operate in (lambda: learner.optim_step(ADAM), lambda: sampler.sample(prompt(), 1, GREEDY)):
            pause = Faults(pause=0.5, pause_state="paused_rate_limit", pause_reason="maintenance", pause_hold=0.1)
            server.set_faults(pause)
            operate()
            server.set_faults(Faults())
    expected = {
        "embedded": [("paused_rate_limit", "maintenance"), ("active", None)] * 2,
        "TuFT": [("active", None)] * 2,
        # The operation is complete before its POST returns.
        "TuFT, late": [("active", None)],
        "TuFT, 0.38": [("active", None)],
        "neither": [("active", None)] * 2,
        "Hatchery": [("paused_capacity", "default"), ("active", None)] * 2,
    }
    assert recorder.events == expected.get(imitated.profile.name, [])


def test_timeout_ends_only_the_wait(imitated, user):
    learner = model(user)
    imitated.hold = min(imitated.hold, 0.2)
    imitated.ready.clear()
    with pytest.raises(DeadlineExceeded, match="has accepted it") as caught:
        learner.forward_backward([datum()], "cross_entropy", timeout=1.5)
    assert (caught.value.phase, caught.value.sent) == ("polling", "yes")
    assert caught.value.request_id
    imitated.ready.set()
    learner.optim_step(ADAM)
    late = user.resume_future(caught.value.request_id, "forward_backward") if not imitated.profile.once else None
    assert late is None or len(late.loss_fn_outputs) == 1


def test_unsent_operation_can_be_withdrawn(imitated, quick):
    learner = model(quick)
    imitated.script["training"] = [(503, "busy", {"Retry-After": "20"})]
    first = learner.submit_forward_backward([datum()], "cross_entropy")
    imitated.until(lambda: any(row[0] == "forward_backward" for row in imitated.arrived))
    second, third = learner.submit_optim_step(ADAM), learner.submit_optim_step(ADAM)
    assert second.cancel()
    assert not first.cancel()
    assert first.result(20)
    third.result(20)
    assert imitated.numbers() == [(1, "forward_backward"), (2, "optim_step")]


def test_invalid_datum_fails_its_batch_and_later_batches_succeed(imitated, very_quick):
    learner = model(very_quick)
    data = datums(5)
    data[2].loss_fn_inputs["target_tokens"].data[0] = 99_999
    with pytest.raises(TinkexError, match="99999.*datums 2 to 3") as caught:
        learner.train_step(data, "cross_entropy", ADAM)
    expected = {"SkyRL": "BadRequestError", "TuFT": "NotFoundError"}
    assert type(caught.value).__name__ == expected.get(imitated.profile.name.partition(",")[0], "RequestFailedError")
    assert current_logprobs(learner)
    learner.train_step(datums(5), "cross_entropy", ADAM)


def test_rejected_chunk_fails_its_batch_and_withdraws_the_optimizer_step(imitated, quick):
    learner = model(quick)
    imitated.script["forward_backward"] = [None, (400, {"detail": "too long"})]
    backward, step = learner.submit_train_step(datums(5), "cross_entropy", ADAM)
    error = backward.exception(20)
    assert (error.accepted, error.refused) == ((0, 2), (2, 5))
    assert isinstance(step.exception(20), WithdrawnError)
    learner.train_step(datums(5), "cross_entropy", ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4, 5]


def test_expired_session_raises_not_found_error_and_reports_missed_heartbeats(imitated):
    recorder = EventRecorder()

    class Watch:
        @hookimpl
        def tinkex_heartbeat_missed(self, misses, error):
            recorder.record(misses, type(error))

    with client(imitated, heartbeat_interval=0.02, plugins=[Watch()]) as service:
        imitated.expire_sessions()
        recorder.until(lambda events: len(events) >= 2)
        assert {kind for _, kind in recorder.events} == {NotFoundError}
        started = time.monotonic()
        with pytest.raises(NotFoundError, match=r"(?i)not found"):
            model(service)
        with pytest.raises(NotFoundError):
            service.create_sampling_client(base_model=MODEL)
        assert time.monotonic() - started < 5
    with client(imitated) as service:
        model(service).optim_step(ADAM)


def test_client_continues_or_raises_clear_errors_after_a_server_restart(imitated):
    with client(imitated, clock=ScaledClock(20)) as service:
        learner = model(service)
        learner.train_step([datum()], "cross_entropy", ADAM)
        saved = learner.save_state("safe").path
        safe = current_logprobs(learner)
        imitated.hold = min(imitated.hold, 2.0)
        imitated.ready.clear()
        pending = learner.submit_forward([datum()], "cross_entropy")
        imitated.until(lambda: len(imitated.applied) == 5)
        imitated.stop()
        imitated.ready.set()
        sent = learner.submit_optim_step(ADAM)
        threading.Timer(0.2, imitated.start_again).start()
        if imitated.profile.transparent:
            assert pending.result(30)
            assert sent.result(30)
        else:
            assert isinstance(pending.exception(30), (ResultLostError, NotFoundError))
            assert isinstance(sent.exception(30), (NotFoundError, OutcomeUnknownError))
            with pytest.raises(NotFoundError):
                learner.optim_step(ADAM)
    with client(imitated) as service:
        again = service.create_training_client_from_state_with_optimizer(saved)
        assert current_logprobs(again) == pytest.approx(safe, rel=1e-4, abs=1e-5)


def test_close_with_operations_in_flight_raises_closed_error(imitated):
    imitated.hold = min(imitated.hold, 5.0)
    service = client(imitated)
    learner = model(service)
    sampler = service.create_sampling_client(base_model=MODEL)
    imitated.ready.clear()
    futures = [sampler.submit_sample(prompt(), 1, GREEDY) for _ in range(5)]
    futures += learner.submit_train_step([datum()], "cross_entropy", ADAM)
    imitated.until(lambda: len(imitated.requests_to("asample", "optim_step")) == 6)
    started = time.monotonic()
    unfinished = service.close()
    assert time.monotonic() - started < 1
    assert len(unfinished) == 7
    for future in futures:
        assert isinstance(future.exception(5), ClosedError)
    with pytest.raises(ClosedError):
        learner.optim_step(ADAM)


def test_session_limit_raises_rate_limit_error_after_all_retries(imitated):
    imitated.session_limit = 0
    started = time.monotonic()
    with pytest.raises(RateLimitError, match="session limit reached") as caught:
        client(imitated, clock=ScaledClock(20), max_retries=3)
    assert caught.value.attempts == 4
    assert time.monotonic() - started < 5
    threading.Timer(0.1, lambda: setattr(imitated, "session_limit", None)).start()
    with client(imitated, clock=ScaledClock(20)) as service:
        assert service.session_id
