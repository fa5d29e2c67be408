"""Lost replies, pauses, timeouts, sessions that end, servers that start anew: on every server, with a clear end."""

import threading
import time

import pytest
from event_recorder import EventRecorder
from imitations import client
from lessons import ADAM, GREEDY, MODEL, datum, datums, known, model, prompt

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
TRAINING = {
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "load_weights",
    "save_weights_for_sampler",
}


def life(service, tried):
    """Every operation once, each through ``tried(endpoint, operation)``, which may repeat it."""
    learner = tried("create_model", lambda: model(service))
    tried("get_info", learner.get_info)
    tried("forward", lambda: learner.forward([datum()], "cross_entropy"))
    tried("forward_backward", lambda: learner.forward_backward([datum()], "cross_entropy"))
    tried("optim_step", lambda: learner.optim_step(ADAM))
    names = iter(["state", "state-again"])
    saved = tried("save_weights", lambda: learner.save_state(next(names))).path
    tried("load_weights", lambda: learner.load_state_with_optimizer(saved))
    rest = service.create_rest_client()
    tried("weights_info", lambda: rest.get_weights_info_by_tinker_path(saved))
    more = iter(["sampler", "sampler-again"])
    path = tried("save_weights_for_sampler", lambda: learner.save_weights_for_sampler(next(more))).path
    sampler = tried("create_sampling_session", lambda: service.create_sampling_client(model_path=path))
    tried("asample", lambda: sampler.sample(prompt(), 1, GREEDY))
    return learner


def test_requests_that_never_arrive_are_made_up_for(imitated):
    for endpoint in (*POSTS, "retrieve_future", "get_server_capabilities"):
        imitated.script[endpoint] = ["before"]
    with client(imitated, clock=ScaledClock(20)) as service:
        service.get_server_capabilities()
        life(service, lambda _, operation: operation())
    assert not any(imitated.script.values())
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4, 5, 6]


def test_lost_replies_to_every_request(imitated):
    for endpoint in POSTS:
        imitated.script[endpoint] = ["after"]
    unknown = []

    def tried(endpoint, operation):
        try:
            return operation()
        except OutcomeUnknownError as error:
            unknown.append(endpoint)
            assert "may or may not have been applied" in str(error)
            return operation()

    with client(imitated, clock=ScaledClock(20)) as service:
        learner = life(service, tried)
        assert known(learner)
    assert not any(imitated.script.values())
    numbers = [number for number, _ in imitated.numbers()]
    if imitated.column.numbers in ("consecutive", "late"):
        # It was done, and nobody can say so: the caller is told, and decides.
        assert set(unknown) == TRAINING
        assert numbers == list(range(1, 14))
    else:
        assert unknown == []
        twice = 2 if imitated.column.numbers == "none" else 1
        assert numbers == [number for number in range(1, 7) for _ in range(twice)] + [7]


def test_a_result_lost_on_its_way(imitated, quick):
    learner = model(quick)
    # So that the poll which is cut off is the one with the result.
    imitated.hold = 5.0
    imitated.script["retrieve_future"] = ["after"]
    if imitated.column.once:
        with pytest.raises(ResultLostError, match="sent in a response that was lost"):
            learner.forward_backward([datum()], "cross_entropy")
    else:
        learner.forward_backward([datum()], "cross_entropy")
    learner.optim_step(ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2]


def test_a_checkpoint_that_is_still_being_written_is_waited_for(imitated, quick):
    learner = model(quick)
    imitated.script["retrieve_future"] = [(425, {"detail": "Checkpoint is still being created"})] * 3
    assert learner.save_state("slow").path
    assert not imitated.script["retrieve_future"]


def test_a_server_that_stumbles(imitated, quick):
    learner = model(quick)
    imitated.script["training"] = [
        (500, "oops"),
        (502, "<html>bad gateway</html>"),
        (503, {"detail": "busy"}),
    ]
    learner.train_step([datum()], "cross_entropy", ADAM)
    imitated.script["retrieve_future"] = [
        (500, {"detail": "oops"}),
        (504, ""),
        (429, {"detail": "slow down"}),
    ]
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4]


def test_pauses_reach_observers_as_far_as_the_server_tells(imitated, server):
    heard = EventRecorder()

    class Watch:
        @hookimpl
        def tinkex_queue_state_changed(self, state, reason, reason_source):
            heard.note(state, reason if reason_source == "server" else reason_source)

    imitated.hold, imitated.queued_limit = min(imitated.hold, 0.1), imitated.queued_limit and 0
    with client(imitated, plugins=[Watch()]) as service:
        learner = model(service)
        sampler = service.create_sampling_client(base_model=MODEL)
        heard.events.clear()
        for operate in (
            lambda: learner.optim_step(ADAM),
            lambda: sampler.sample(prompt(), 1, GREEDY),
        ):
            pause = Faults(pause=0.5, pause_state="paused_rate_limit", pause_reason="tea", pause_hold=0.1)
            server.set_faults(pause)
            operate()
            server.set_faults(Faults())
    told = {
        "embedded": [("paused_rate_limit", "tea"), ("active", None)] * 2,
        "TuFT": [("active", None)] * 2,
        # Training is over before its promise is given.
        "TuFT, late": [("active", None)],
        "TuFT, today": [("active", None)],
        "neither": [("active", None)] * 2,
        "Hatchery": [("paused_capacity", "default"), ("active", None)] * 2,
    }
    assert heard.events == told.get(imitated.column.name, [])


def test_a_timeout_ends_the_wait_and_nothing_else(imitated, user):
    learner = model(user)
    imitated.hold = min(imitated.hold, 0.2)
    imitated.ready.clear()
    with pytest.raises(DeadlineExceeded, match="has accepted it") as caught:
        learner.forward_backward([datum()], "cross_entropy", timeout=0.3)
    assert (caught.value.phase, caught.value.sent) == ("polling", "yes")
    assert caught.value.request_id
    imitated.ready.set()
    learner.optim_step(ADAM)
    late = (
        user.resume_future(caught.value.request_id, "forward_backward") if not imitated.column.once else None
    )
    assert late is None or len(late.loss_fn_outputs) == 1


def test_what_was_not_sent_can_be_withdrawn(imitated, quick):
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


def test_a_bad_datum_in_the_middle(imitated, quick):
    learner = model(quick)
    data = datums(5)
    data[2].loss_fn_inputs["target_tokens"].data[0] = 99_999
    with pytest.raises(TinkexError, match="99999.*datums 2 to 3") as caught:
        learner.train_step(data, "cross_entropy", ADAM)
    expected = {"SkyRL": "BadRequestError", "TuFT": "NotFoundError"}
    assert type(caught.value).__name__ == expected.get(
        imitated.column.name.partition(",")[0], "RequestFailedError"
    )
    assert known(learner)
    learner.train_step(datums(5), "cross_entropy", ADAM)


def test_a_chunk_refused_in_the_middle(imitated, quick):
    learner = model(quick)
    imitated.script["forward_backward"] = [None, (400, {"detail": "too long"})]
    backward, step = learner.submit_train_step(datums(5), "cross_entropy", ADAM)
    error = backward.exception(20)
    assert (error.accepted, error.refused) == ((0, 2), (2, 5))
    assert isinstance(step.exception(20), WithdrawnError)
    learner.train_step(datums(5), "cross_entropy", ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2, 3, 4, 5]


def test_a_session_that_has_expired(imitated):
    heard = EventRecorder()

    class Watch:
        @hookimpl
        def tinkex_heartbeat_missed(self, misses, error):
            heard.note(misses, type(error))

    with client(imitated, heartbeat_interval=0.02, plugins=[Watch()]) as service:
        imitated.expire_sessions()
        heard.until(lambda events: len(events) >= 2)
        assert {kind for _, kind in heard.events} == {NotFoundError}
        began = time.monotonic()
        with pytest.raises(NotFoundError, match=r"(?i)not found"):
            model(service)
        with pytest.raises(NotFoundError):
            service.create_sampling_client(base_model=MODEL)
        assert time.monotonic() - began < 5
    with client(imitated) as service:
        model(service).optim_step(ADAM)


def test_a_server_that_starts_again(imitated):
    with client(imitated, clock=ScaledClock(20)) as service:
        learner = model(service)
        learner.train_step([datum()], "cross_entropy", ADAM)
        saved = learner.save_state("safe").path
        safe = known(learner)
        imitated.hold = min(imitated.hold, 2.0)
        imitated.ready.clear()
        pending = learner.submit_forward([datum()], "cross_entropy")
        imitated.until(lambda: len(imitated.applied) == 5)
        imitated.stop()
        imitated.ready.set()
        sent = learner.submit_optim_step(ADAM)
        threading.Timer(0.2, imitated.start_again).start()
        if imitated.column.transparent:
            assert pending.result(30)
            assert sent.result(30)
        else:
            assert isinstance(pending.exception(30), (ResultLostError, NotFoundError))
            assert isinstance(sent.exception(30), (NotFoundError, OutcomeUnknownError))
            with pytest.raises(NotFoundError):
                learner.optim_step(ADAM)
    with client(imitated) as service:
        again = service.create_training_client_from_state_with_optimizer(saved)
        assert known(again) == pytest.approx(safe, rel=1e-4, abs=1e-5)


def test_closing_with_work_in_flight(imitated):
    imitated.hold = min(imitated.hold, 5.0)
    service = client(imitated)
    learner = model(service)
    sampler = service.create_sampling_client(base_model=MODEL)
    imitated.ready.clear()
    futures = [sampler.submit_sample(prompt(), 1, GREEDY) for _ in range(5)]
    futures += learner.submit_train_step([datum()], "cross_entropy", ADAM)
    imitated.until(lambda: len(imitated.requests_to("asample", "optim_step")) == 6)
    began = time.monotonic()
    left = service.close()
    assert time.monotonic() - began < 1
    assert len(left) == 7
    for future in futures:
        assert isinstance(future.exception(5), ClosedError)
    with pytest.raises(ClosedError):
        learner.optim_step(ADAM)


def test_a_limit_on_sessions(imitated):
    imitated.session_limit = 0
    began = time.monotonic()
    with pytest.raises(RateLimitError, match="session limit reached") as caught:
        client(imitated, clock=ScaledClock(20), max_retries=3)
    assert caught.value.attempts == 4
    assert time.monotonic() - began < 5
    threading.Timer(0.1, lambda: setattr(imitated, "session_limit", None)).start()
    with client(imitated, clock=ScaledClock(20)) as service:
        assert service.session_id
