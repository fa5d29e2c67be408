"""Scenarios of real client code. Each is a function of a scheduler; it fails by an assertion or by never ending."""

import json

from throttle_examples import BlockingThrottle

from tinkex_sync import errors, types
from tinkex_sync.concurrency.close_signal import CloseSignal
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.concurrency.workers import Lane, Workers
from tinkex_sync.config import Config
from tinkex_sync.http import auth
from tinkex_sync.http.retry import RetryConfig
from tinkex_sync.http.transport import Response
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.session import Session
from tinkex_sync.throttle import semaphores

__all__ = ["SCENARIOS", "semaphores_are_fair"]

ENDS = (errors.ClosedError, errors.DeadlineExceeded)


def semaphores_are_fair(scheduler, counting=semaphores.CountingSemaphore, bytes_=semaphores.BytesSemaphore):
    """Acquire with timeouts, interrupt, close and release."""
    closing = CloseSignal()
    places, budget = counting(2, scheduler.clock, closing), bytes_(10, scheduler.clock, closing)
    holders = {"places": 0, "bytes": 0}

    def check():
        assert 0 <= holders["places"] <= 2, f"{holders['places']} hold two places"
        assert 0 <= places._held <= places.limit

    def work(number):
        for turn in range(2):
            deadline = scheduler.now + 1.0 if (number + turn) % 3 == 0 else None
            try:
                places.acquire(deadline=deadline)
            except ENDS:
                continue
            holders["places"] += 1
            try:
                budget.acquire(4 * number, deadline=deadline)
            except ENDS:
                pass
            else:
                holders["bytes"] += 4 * number
                scheduler.pause(0.3)
                holders["bytes"] -= 4 * number
                budget.release(4 * number)
            holders["places"] -= 1
            places.release()

    scheduler.check = check
    threads = [scheduler.spawn(work, number, name=f"t{number}") for number in range(4)]
    if scheduler.seed % 3 == 0:
        scheduler.pause(0.5)
        closing.set()
    for thread in threads:
        thread.join()
    assert (places.balance, places.waiting, budget.balance, budget.waiting) == (2, 0, 10, 0), "something is held"


def semaphores_are_first_in_first_out(scheduler, counting=semaphores.CountingSemaphore):
    """Admissions are granted in the order in which they were queued."""
    semaphore = counting(1, scheduler.clock)
    admissions, queued, granted = [], [], []

    def check():
        # The queue changes under the lock only, so this sees every order that there was.
        for admission in semaphore._waiters:
            if admission not in queued:
                queued.append(admission)
        for one in admissions:
            if one.is_granted and one not in granted:
                assert one in queued or not semaphore._waiters, "a newcomer was granted before those that wait"
                granted.append(one)

    def work():
        admission = semaphores.Admission(1, lambda: None)
        admissions.append(admission)
        semaphore.enter(admission)
        scheduler.wait_until(lambda: admission.is_granted)
        scheduler.pause()
        semaphore.leave(admission)

    scheduler.check = check
    threads = [scheduler.spawn(work, name=f"t{number}") for number in range(4)]
    for thread in threads:
        thread.join()
    assert [one for one in granted if one in queued] == queued, "a later one was granted first"
    assert semaphore.balance == 1 and semaphore.waiting == 0


def the_throttle_gives_back_all_it_admits(scheduler):
    """Permits that wait, are refused with 429, reach their deadline, or are closed."""
    throttle = BlockingThrottle(
        scheduler.clock, max_dispatches=2, max_dispatches_after_backoff=1, dispatch_bytes=100, small_backoff=0.5
    )
    inside = throttle.throttle

    def check():
        assert 0 <= inside._in_flight <= 2, f"{inside._in_flight} permits at the same time"
        assert len(inside._turns) == len(set(map(id, inside._turns))), "a permit is queued twice"

    def work(number):
        deadline = scheduler.now + 2.0 if number == 3 else None
        try:
            with throttle.permit(40 * number, deadline) as permit:
                permit.await_turn(deadline)
                scheduler.pause(0.1)
                if number % 2:
                    permit.record_rate_limit()
                    permit.await_turn(deadline)
                permit.record_acceptance()
        except ENDS:
            pass

    scheduler.check = check
    threads = [scheduler.spawn(work, number, name=f"t{number}") for number in range(4)]
    if scheduler.seed % 4 == 0:
        scheduler.pause(0.2)
        throttle.closing.set()
    for thread in threads:
        thread.join()
    usage = inside.usage()
    assert (usage["in_flight"], usage["bytes_left"], usage["waiting"]) == (0, 100, 0), f"{usage} is held"


def workers_run_each_job_once(scheduler, kind=Workers):
    """Submit, fail, close, with threads that cannot be started."""
    timer = Timer(scheduler.clock)
    workers = kind("w", scheduler.clock, timer, active=2, limit=3)
    scheduler.cannot_start = scheduler.seed % 3
    ran, accepted, refused = [], [], []

    def submit(first):
        for number in range(first, first + 4):

            def job(number=number):
                ran.append(number)
                with workers.waiting():
                    scheduler.pause()
                if number % 4 == 3:
                    raise ValueError("a job that fails")

            try:
                (accepted if workers.submit(job) else refused).append(number)
            except errors.ThreadStartError:
                refused.append(number)

    threads = [scheduler.spawn(submit, first, name=f"s{first}") for first in (0, 10)]
    left = []
    if scheduler.seed % 2:
        scheduler.pause()
        left = workers.close()
    for thread in threads:
        thread.join()
    scheduler.wait_until(lambda: len(ran) + len(left) >= len(accepted))
    left = [*left, *workers.close()]
    timer.close()
    assert len(ran) == len(set(ran)), f"jobs ran twice: {ran}"
    assert len(ran) + len(left) == len(accepted), f"{len(accepted)} accepted, {len(ran)} ran, {len(left)} returned"


def lanes_keep_the_order(scheduler, kind=Lane):
    """Jobs of a lane run one after another, in the order of submission."""
    lane = kind("lane")
    ran, running = [], []

    def job(number):
        assert not running, "two jobs run at the same time"
        running.append(number)
        scheduler.pause()
        running.remove(number)
        ran.append(number)

    def submit():
        for number in range(3):
            lane.submit(lambda number=number: job(number), lambda number=number: job(number + 100))

    thread = scheduler.spawn(submit, name="submitter")
    thread.join()
    scheduler.wait_until(lambda: len(ran) == 6)
    lane.close()
    assert ran == [0, 100, 1, 101, 2, 102], f"ran {ran}"


def timers_call_once_and_in_time(scheduler, kind=Timer):
    """Each function is called once, not before its time, and not after it was cancelled."""
    timer = kind(scheduler.clock)
    calls, cancelled = [], set()

    def plan(first):
        for number in range(first, first + 3):
            time = scheduler.now + (number % 3)

            def call(number=number, time=time):
                assert scheduler.now >= time, "called too early"
                assert number not in cancelled, "called after it was cancelled"
                calls.append(number)

            handle = timer.at(time, call)
            if number % 3 == 2:
                handle.cancel()
                if number not in calls:
                    cancelled.add(number)

    threads = [scheduler.spawn(plan, first, name=f"p{first}") for first in (0, 10)]
    for thread in threads:
        thread.join()
    scheduler.wait_until(lambda: len(calls) + len(cancelled) >= 6)
    timer.close()
    assert len(calls) == len(set(calls)), f"called twice: {calls}"


def tokens_are_exchanged_once(scheduler, kind=auth.AuthTokens):
    """All threads get a token from one exchange, or its error."""
    timer = Timer(scheduler.clock)
    exchanges, running, found = [], [], []

    def exchange(deadline):
        assert not running, "two exchanges at the same time"
        running.append(1)
        scheduler.pause(0.1)
        running.pop()
        exchanges.append(1)
        if len(exchanges) == 1 and scheduler.seed % 2:
            raise errors.APIConnectionError("no network")
        return f"token-{len(exchanges)}"

    tokens = kind(exchange, scheduler.clock, timer, lambda job: None)

    def work(number):
        stale = None
        for _ in range(2):
            try:
                stale = tokens.replaced(stale, scheduler.now + 5.0)
            except (errors.APIConnectionError, errors.DeadlineExceeded):
                continue
            found.append(stale)

    threads = [scheduler.spawn(work, number, name=f"t{number}") for number in range(3)]
    for thread in threads:
        thread.join()
    timer.close()
    assert len(exchanges) <= 6, f"{len(exchanges)} exchanges for {found}"
    assert not running


class _Answers:
    """Responses to a session without a network."""

    def __init__(self, scheduler, refusals):
        self.scheduler, self.refusals, self.sent = scheduler, list(refusals), []
        #: Whether polls have no response until the session is closed.
        self.is_silent = False
        self.session = None

    def send_once(self, request, attempts=None):
        endpoint = request.row.name
        self.scheduler.pause()
        if request.call is not None:
            request.call.sent = "yes"
        self.sent.append(endpoint)
        self.scheduler.pause(0.05)
        if endpoint in ("asample", "forward_backward") and self.refusals and endpoint == self.refusals[0][0]:
            status = self.refusals.pop(0)[1]
            raise errors.status_error(status, body={"detail": "refused"})
        if endpoint == "retrieve_future" and self.is_silent:
            left = None if request.deadline is None else max(0.0, request.deadline - self.scheduler.now)
            if self.scheduler.wait_until(self.session.closing.is_set, left):
                raise errors.ClosedError("closed")
            raise request.call.deadline_exceeded()
        bodies = {
            "asample": {"request_id": "r"},
            "forward_backward": {"request_id": f"r{len(self.sent)}"},
            "optim_step": {"request_id": "o"},
            "retrieve_future": {"type": "sample", "sequences": [{"stop_reason": "stop", "tokens": [1]}]},
        }
        if endpoint == "retrieve_future" and request.body.request_id.startswith("r") and request.body.request_id != "r":
            bodies[endpoint] = {"loss_fn_output_type": "t", "loss_fn_outputs": [{}], "metrics": {"loss:sum": 1.0}}
        return Response(200, {"content-type": "application/json"}, json.dumps(bodies[endpoint]).encode(), 0.0)


def _session(scheduler, refusals=()):
    config = Config(
        base_url="http://127.0.0.1:9", api_key="k", clock=scheduler.clock, protocol="0.7", max_chunk_datums=1
    )
    session = Session(config, Observers(autoload=False, modules=(), disabled=(), clock=scheduler.clock))
    answers = _Answers(scheduler, refusals)
    session.send_once, answers.session = answers.send_once, session
    session.join("session")
    return session, answers


PROMPT, PARAMS = types.ModelInput.from_ints([1, 2]), types.SamplingParams(max_tokens=1)


def a_sample_ends_exactly_once(scheduler, prepare=lambda session: None):
    """A submitted sample with a retry, a timeout, a cancellation and a close in any order."""
    from tinkex_sync.clients.sampling import SamplingClient

    session, answers = _session(scheduler, [("asample", 503)] if scheduler.seed % 2 else [])
    prepare(session)
    answers.is_silent = scheduler.seed % 3 == 0
    # Then the first sample never ends by itself, and the second one waits for its place until its timeout.
    sampler = SamplingClient(session, "sampler", RetryConfig(max_connections=1 if answers.is_silent else 10))
    ends = []
    timeouts = (None, 1.0 if answers.is_silent else None)
    futures = [sampler.submit_sample(PROMPT, 1, PARAMS, timeout=timeout) for timeout in timeouts]
    for future in futures:
        future.add_done_callback(ends.append)
    if scheduler.seed % 4 == 1:
        scheduler.spawn(futures[0].cancel, name="cancel")
    if scheduler.seed % 5 == 2:
        scheduler.spawn(session.close, name="close")
    scheduler.wait_until(lambda: all(future.done() for future in futures[answers.is_silent :]))
    session.close()
    scheduler.wait_until(lambda: len(ends) == 2)
    scheduler.pause(10.0)
    assert len(ends) == 2, f"{len(ends)} ends"
    for future in futures:
        if not future.cancelled() and future.exception() is None:
            assert future.result(0.0).sequences[0].tokens == [1]
    if scheduler.seed % 5 != 2 and not answers.is_silent:  # a closed session gives nothing back
        assert sampler._context.running.balance == sampler._context.running.limit, "a slot is held"
        assert session.throttle.usage()["in_flight"] == 0, "a permit is held"


def a_batch_with_a_refusal_fails_once(scheduler):
    """A batch of three chunks, of which one may be refused, and the optimizer step after it."""
    from tinkex_sync.clients.training import TrainingClient

    datum = types.Datum(model_input=PROMPT, loss_fn_inputs={"target_tokens": [2, 3]})
    refusals = [("forward_backward", 400)] if scheduler.seed % 2 else []
    session, answers = _session(scheduler, refusals)
    training = TrainingClient(session, "model")
    backward, step = training.submit_train_step([datum] * 3, "cross_entropy", types.AdamParams())
    if scheduler.seed % 5 == 0:
        scheduler.spawn(session.close, name="close")
    scheduler.wait_until(lambda: backward.done() and step.done())
    if isinstance(backward.exception(0.0), errors.BadRequestError):
        assert not answers.sent.count("optim_step"), "the step of a refused batch was sent"
        assert isinstance(step.exception(0.0), (errors.WithdrawnError, errors.ClosedError))
    elif backward.exception(0.0) is None:
        assert len(backward.result(0.0).loss_fn_outputs) == 3
    step.exception(0.0)
    session.close()


SCENARIOS = (
    semaphores_are_fair, semaphores_are_first_in_first_out, the_throttle_gives_back_all_it_admits,
    workers_run_each_job_once, lanes_keep_the_order, timers_call_once_and_in_time, tokens_are_exchanged_once,
    a_sample_ends_exactly_once, a_batch_with_a_refusal_fails_once,
)  # fmt: skip
