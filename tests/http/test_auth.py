"""Tokens that replace the API key: exchanged, renewed in time, replaced once when refused, shown nowhere."""

import base64
import json
import logging
import pickle
import threading
import time

import pytest
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.errors import ConfigError
from tinkex_sync.http.auth import AuthTokens, check_credential, read_claims
from tinkex_sync.http.request import Request

REQUIRES_TOKENS = {"pjwt_auth_enabled": True}
INVALID = {"WWW-Authenticate": 'Bearer realm="x", error="invalid_token"'}


def jwt(serial=1, lifetime=600.0, **changes):
    now = time.time()
    body = {"serial": serial, "iat": now, "exp": now + lifetime, **changes}
    body = {name: value for name, value in body.items() if value is not None}
    middle = base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{middle}.sig"


class Issuer:
    """Returns the next token from auth/token, and records the keys of the requests."""

    def __init__(self, server, **claim):
        self.made, self.keys, self._claims = [], [], claim
        server.defaults["auth/token"] = self
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["sessions"] = Answer(body={"sessions": ["sess-1"]})

    def __call__(self, request):
        self.made.append(jwt(len(self.made) + 1, **self._claims))
        self.keys.append(request.headers["x-api-key"])
        return Answer(body={"jwt": self.made[-1]})


def keys_sent(server, issuer):
    """Return for every request its operation and the serial of its token, or "key"."""
    names = {token: index for index, token in enumerate(issuer.made, 1)}
    return [(one.operation, names.get(one.headers["x-api-key"], "key")) for one in server.requests]


def started(server, session, **claim):
    issuer = Issuer(server, **claim)
    server.script("client/config", Answer(body=REQUIRES_TOKENS))
    session.open()
    return issuer


def test_a_server_that_requires_tokens_gets_the_key_in_the_exchange_only():
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session)
        session.call(Request("sessions"))
        assert keys_sent(server, issuer) == [
            ("client/config", "key"),
            ("auth/token", "key"),
            ("create_session", 1),
            ("sessions", 1),
        ]
        assert server.sent("auth/token")[0].body == {}


def test_other_servers_get_no_exchange():
    with bare_session(protocol="auto") as (server, session):
        issuer = Issuer(server)
        server.script("client/config", Answer(body={"pjwt_auth_enabled": False, "fwdbwd_max_chunk_len": 4}))
        session.open()
        session.call(Request("sessions"))
        assert not issuer.made
        assert {key for _, key in keys_sent(server, issuer)} == {"key"}


@pytest.mark.parametrize(("lifetime", "exchanges"), [(63.0, 1), (61.5, 1), (60.0, 3), (5.0, 3)])
def test_a_token_with_a_minute_left_is_renewed_before_it_is_used(lifetime, exchanges):
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session, lifetime=lifetime)
        session.call(Request("sessions"))
        session.call(Request("sessions"))
        assert len(issuer.made) == exchanges


@pytest.mark.parametrize("claim", [{"exp": None}, {"exp": "soon"}, {"exp": True}])
def test_a_token_without_expiry_is_used_once(claim):
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session, **claim)
        session.call(Request("sessions"))
        assert [key for name, key in keys_sent(server, issuer) if name != "auth/token"] == ["key", 1, 2]


def test_a_refused_token_is_replaced_and_the_request_is_sent_once_more():
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session)
        server.script("sessions", Answer(401, {"detail": "x"}, headers=INVALID))
        assert session.call(Request("sessions")).sessions == ["sess-1"]
        assert keys_sent(server, issuer)[-3:] == [("sessions", 1), ("auth/token", "key"), ("sessions", 2)]
        server.script("sessions", *[Answer(401, {"detail": "x"}, headers=INVALID)] * 2)
        with pytest.raises(errors.AuthenticationError):
            session.call(Request("sessions"))
        assert keys_sent(server, issuer)[-3:] == [("sessions", 2), ("auth/token", "key"), ("sessions", 3)]


@pytest.mark.parametrize("answer", [Answer(403, {"detail": "x"}, headers=INVALID), Answer(401, {"detail": "x"})])
def test_other_refusals_are_final(answer):
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session)
        server.script("sessions", answer)
        with pytest.raises(errors.APIStatusError):
            session.call(Request("sessions"))
        assert len(issuer.made) == 1


def test_a_refused_exchange_is_the_error_of_the_call():
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        Issuer(server)
        server.script("client/config", Answer(body=REQUIRES_TOKENS))
        server.script("auth/token", Answer(401, {"detail": "bad key"}))
        with pytest.raises(errors.AuthenticationError, match="bad key"):
            session.open()
        assert not server.sent("create_session")


def test_a_valid_token_is_used_while_the_exchange_fails():
    with bare_session(SteppedClock(), protocol="auto", max_retries=0) as (server, session):
        issuer = started(server, session, lifetime=30.0)
        server.script("auth/token", Answer(503))
        session.call(Request("sessions"))
        assert keys_sent(server, issuer)[-1] == ("sessions", 1)


def test_one_exchange_serves_all_threads():
    calls, held, inside = [], threading.Event(), threading.Event()

    def exchange(deadline):
        calls.append(threading.current_thread().name)
        inside.set()
        assert held.wait(20)
        return jwt(len(calls))

    timer = Timer(Clock())
    tokens = AuthTokens(exchange, Clock(), timer, lambda job: job())
    got = []
    threads = [threading.Thread(target=lambda: got.append(tokens.current())) for _ in range(40)]
    try:
        for thread in threads:
            thread.start()
        assert inside.wait(20)
        held.set()
        for thread in threads:
            thread.join(20)
        assert len(calls) == 1 and len(got) == 40 and len(set(got)) == 1
        # A rejection that forty calls met with leads to one exchange too.
        again = [threading.Thread(target=lambda: got.append(tokens.replaced(got[0]))) for _ in range(40)]
        for thread in again:
            thread.start()
        for thread in again:
            thread.join(20)
        assert len(calls) == 2 and len(set(got[40:])) == 1
    finally:
        timer.close()


def test_a_thread_that_waits_for_an_exchange_gets_its_error_or_times_out():
    clock, held, inside = Clock(), threading.Event(), threading.Event()

    def exchange(deadline):
        inside.set()
        assert held.wait(20)
        raise errors.APIConnectionError("gone")

    timer = Timer(clock)
    tokens = AuthTokens(exchange, clock, timer, lambda job: job())
    outcomes = []

    def request_token():
        try:
            tokens.current()
        except errors.APIConnectionError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=request_token) for _ in range(2)]
    try:
        threads[0].start()
        assert inside.wait(20)
        threads[1].start()
        with pytest.raises(errors.DeadlineExceeded) as late:
            tokens.current(clock.time() + 0.05)
        assert late.value.sent == "no"
        held.set()
        for thread in threads:
            thread.join(20)
        assert outcomes == ["gone", "gone"]
    finally:
        timer.close()


def test_a_token_is_renewed_in_the_background_after_half_its_lifetime():
    class Due:
        """A timer that records scheduled calls."""

        def __init__(self):
            self.planned = []

        def at(self, when, function):
            self.planned.append((when, function))

    clock, due, made = SteppedClock(), Due(), []

    def exchange(deadline):
        made.append(jwt(len(made) + 1, lifetime=1000.0))
        return made[-1]

    tokens = AuthTokens(exchange, clock, due, lambda job: job(), draw=lambda low, high: (low + high) / 2)
    tokens.current()
    ((when, function),) = due.planned
    assert when - clock.time() == pytest.approx(500.0, abs=1.0)
    function()
    assert len(made) == 2 and len(due.planned) == 2
    assert tokens.current() == made[1]
    del tokens
    # The tokens are dropped: a renewal that is still scheduled does nothing.
    due.planned[-1][1]()
    assert len(made) == 2


def test_tokens_are_in_no_log_repr_pickle_or_status(caplog):
    caplog.set_level(logging.DEBUG)
    with bare_session(protocol="auto") as (server, session):
        issuer = started(server, session)
        server.script("sessions", *[Answer(401, {"detail": "x"}, headers=INVALID)] * 2)
        with pytest.raises(errors.AuthenticationError) as refused:
            session.call(Request("sessions"))
        answer = session.call(Request("auth_token", {}))
        shown = [repr(session.credentials.tokens), repr(answer), repr(session.config), caplog.text, repr(refused.value)]
        shown.append(repr(vars(refused.value)))
        shown.append(repr(pickle.dumps(refused.value)))
        shown.append(repr(session.negotiation.status()))
        for token in issuer.made:
            assert not any(token in text or token.split(".")[1] in text for text in shown)


@pytest.mark.parametrize("key", ["a.b", "eyJ.!!!.x", "eyJ.W10.x", "", "tml-key", "a.b.c.d"])
def test_a_key_that_is_not_a_token_has_no_claims(key):
    assert read_claims(key) == {}
    check_credential(key)


def test_an_expired_token_as_key_is_refused_before_anything_is_sent():
    check_credential(jwt(lifetime=5.0))
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        check_credential(jwt(lifetime=-5.0))
