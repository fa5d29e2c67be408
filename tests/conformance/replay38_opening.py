"""Replays of the opening and closing of a session in protocol 0.38.0: requests, credentials and negotiation."""

import base64
import json
import re
import threading
import time
from typing import Any, Dict, List, Optional

import pytest
from scripted_server import API, Answer, Request, ScriptedServer, SteppedClock, bare_session

from tinkex_sync import ServiceClient, errors
from tinkex_sync.compat.settings import service_arguments
from tinkex_sync.heartbeat import start_heartbeat

from .registry import error_class, no_excuse, not_understood, only, replay38

KEY = "tml-test-key"
INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
VARIABLES = ("TINKER_API_KEY", "TINKER_PROJECT_ID", "TINKER_TAGS", "TINKER_CREDENTIAL_CMD")


def with_environment(patch: pytest.MonkeyPatch, changes: Dict[str, Optional[str]]) -> None:
    patch.setenv("TINKER_API_KEY", KEY)
    for name, value in changes.items():
        if name not in VARIABLES and not name.startswith("CLOUDFLARE_ACCESS_"):
            not_understood(f"variable {name}")
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


def raised(error: BaseException, expected: Dict[str, Any]) -> None:
    assert isinstance(error, error_class(expected["exception"])), repr(error)
    if "str" in expected:
        assert str(error).startswith(expected["str"])


def check_requests(ours: List[Request], recorded: List[Dict[str, Any]]) -> None:
    """Assert that the requests are the recorded ones. Their bodies may omit default values."""
    assert [(one.method, one.path) for one in ours] == [(one["method"], one["path"]) for one in recorded]
    for mine, theirs in zip(ours, recorded):
        body = dict(theirs["body"] or {})
        body.pop("type", None)
        assert (mine.body or {}) == body
        for name in ("x-api-key", "x-extra", "cf-access-client-id", "cf-access-client-secret"):
            assert mine.headers.get(name) == theirs["headers"].get(name)


def script_exchanges(server: ScriptedServer, exchanges: List[Dict[str, Any]]) -> None:
    for one in exchanges:
        answer = one["response"]
        path = one["request"]["path"].partition(API)[2]
        server.script(path, Answer(answer["status"], answer["body"], headers=answer["headers"]))
    server.defaults["create_session"] = Answer(body={"type": "create_session", "session_id": "sess-1"})
    server.defaults["client/config"] = Answer(body={"use_pyqwest_transport": False})
    server.defaults["client/dynamic_config"] = Answer(body={})


@replay38("startup")
def startup(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(
        case["input"],
        *("env", "args", "op", "config", "config_response", "dynamic_config", "session_response"),
        *("create_session", "heartbeat", "period_s", "note"),
    )
    expected = only(
        case["expected"],
        *("requests_at_construction", "exchanges", "client_config", "client_dynamic_config"),
        *("exception", "mro", "str", "after", "sleep_count"),
    )
    no_excuse(row)
    if "heartbeat" in given:
        beats(given["heartbeat"], expected["after"])
        return
    args = dict(given.get("args", {}))
    end = {name: args.pop(name) for name in ("status", "detail") if name in args}
    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        with_environment(patch, given.get("env", {}))
        script_exchanges(server, expected["exchanges"])
        session = None
        try:
            service = ServiceClient(**opening(args, server.base_url))
            session = service.session
            check_config(session.negotiation, expected)
            finish(service, given.get("op"), end)
        except Exception as error:
            if "exception" not in expected:
                raise
            raised(error, expected)
        else:
            assert "exception" not in expected
        finally:
            if session is not None:
                session.close(None)
        check_requests(server.requests, [one["request"] for one in expected["exchanges"]])


def opening(args: Dict[str, Any], base_url: str) -> Dict[str, Any]:
    """Return arguments of our ServiceClient for recorded keyword arguments of the official one."""
    official = {name: value for name, value in args.items() if value is not None}
    headers = {**official.pop("default_headers", {}), **official.pop("default_headers_overrides", {})}
    official["base_url"] = official.get("base_url", "<base>").replace("<base>", base_url)
    ours = service_arguments({**official, "default_headers": headers} if headers else official)
    return {"protocol": "0.38", "load_plugins": False, "clock": SteppedClock(), **ours}


def check_config(negotiation: Any, expected: Dict[str, Any]) -> None:
    """Assert that the client stores the values that the server sent. Other values stay None."""
    for announced, recorded in (
        (negotiation.negotiated.server_config, expected["client_config"]),
        (negotiation.dynamic_config, expected["client_dynamic_config"]),
    ):
        for name, value in vars(announced).items():
            if value is not None:
                assert recorded[name] == value, name


def finish(service: ServiceClient, op: Optional[str], args: Dict[str, Any]) -> None:
    if op == "close":
        service.session.close(args.get("status", "success"), args.get("detail"))
    elif op == "with ServiceClient: pass":
        with service:
            pass
    elif op is not None or args:
        not_understood(f"op {op}, arguments {args}")


def beats(answers: List[int], after: Dict[str, Any]) -> None:
    """Assert that heartbeats stop after a 410 and continue after every other response."""
    seen: List[int] = []
    enough = threading.Event()

    def beat(request: Request) -> Answer:
        status = answers[min(len(seen), len(answers) - 1)]
        seen.append(status)
        if len(seen) > len(answers) + 2:
            enough.set()
        return Answer(status, {"detail": "x"} if status >= 300 else {})

    with bare_session(protocol="0.38", heartbeat_interval=0.02) as (server, session):
        server.defaults["session_heartbeat"] = beat
        session.join("sess-1")
        start_heartbeat(session)
        if "heartbeats_seen" in only(after, "heartbeats_seen", "stops"):
            assert not enough.wait(0.5)
            assert len(seen) == after["heartbeats_seen"]
        else:
            assert after["stops"] is False and enough.wait(20.0)


# Tokens


def jwt(serial: int, lifetime: Optional[float]) -> str:
    now = time.time()
    body: Dict[str, Any] = {"serial": serial, "iat": now}
    if lifetime is not None:
        body["exp"] = now + lifetime
    middle = base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{middle}.sig"


def lifetime_of(given: Dict[str, Any]) -> Optional[float]:
    if "jwt" not in given:
        return float(given.get("jwt_lifetime_s", 600))
    return None if given["jwt"] == "no exp claim" else not_understood(given["jwt"])


def own_jwt(words: str) -> str:
    """Return the token that the user passes as API key: "JWT", "JWT, expired" or "JWT, no exp claim"."""
    lifetimes = {"JWT": 600.0, "JWT, expired": -60.0, "JWT, no exp claim": None}
    return jwt(0, lifetimes[words]) if words in lifetimes else not_understood(words)


def refusals(given: Dict[str, Any]) -> List[Answer]:
    """Return the first responses to the request that follows the opening."""
    words = given.get("second_request_answer") or given.get("answers") or given.get("answer")
    if words is None:
        return []
    found = re.match(r"(401|403)\b", words)
    if found is None:
        return not_understood(words)
    marked = "invalid_token" in words or "marker" in words
    one = Answer(int(found[1]), {"detail": "x"}, headers=INVALID if marked else {})
    return [one] * (2 if words.endswith("twice") else 1)


@replay38("auth")
def auth(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(
        case["input"],
        *("env", "credential_default_source", "pjwt_auth_enabled", "jwt_lifetime_s", "jwt", "api_key"),
        *("second_request_answer", "answer", "answers", "auth/token"),
    )
    expected = only(case["expected"], "requests", "after", "exception", "mro", "str")
    no_excuse(row)
    made: List[str] = []

    def exchange(request: Request) -> Answer:
        made.append(jwt(len(made) + 1, lifetime_of(given)))
        return Answer(body={"jwt": made[-1]})

    announced = {"pjwt_auth_enabled": given.get("pjwt_auth_enabled", True)}
    if "credential_default_source" in given:
        announced["credential_default_source"] = given["credential_default_source"]
    recorded_requests = expected["requests"] or []
    user_jwt = own_jwt(given.get("api_key", "JWT"))
    outcome: Any = None
    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        with_environment(patch, given.get("env", {}))
        if "api_key" in given:
            patch.setenv("TINKER_API_KEY", user_jwt)
        server.script("client/config", Answer(body=announced))
        statuses = [one["status"] for one in recorded_requests if one["path"].endswith("auth/token")]
        for status in statuses:
            server.script("auth/token", exchange if status < 300 else Answer(status, {"detail": "bad key"}))
        server.defaults["auth/token"] = exchange
        server.defaults["client/dynamic_config"] = Answer(body={})
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.script("sessions", *refusals(given))
        server.defaults["sessions"] = Answer(body={"sessions": ["sess-1", "sess-2"]})
        session = None
        try:
            service = ServiceClient(base_url=server.base_url, protocol="0.38", load_plugins=False, clock=SteppedClock())
            session = service.session
            if "after" in expected:
                outcome = service.create_rest_client().list_sessions().sessions
        except errors.TinkexError as error:
            outcome = error
        finally:
            if session is not None:
                session.close(None)
        sent = list(server.requests)
    labels = {token: f"<jwt {index}>" for index, token in enumerate(made, 1)}
    labels[user_jwt] = "<user jwt>"
    assert [
        {
            "method": one.method,
            "path": one.path,
            "x-api-key": labels.get(str(one.headers["x-api-key"]), one.headers["x-api-key"]),
            "status": one.answer.status if one.answer else None,
            "idempotency_key_present": "x-idempotency-key" in one.headers,
        }
        for one in sent
    ] == [{name: value for name, value in one.items() if name != "body"} for one in recorded_requests]
    after = expected.get("after", expected)
    if "exception" in after:
        raised(outcome, after)
    else:
        assert not isinstance(outcome, Exception), repr(outcome)
        assert "after" not in expected or str(outcome) == after


@replay38("detection")
def detection(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "client_config", "dynamic_config", "auth_token", "finish")
    no_excuse(row)
    reference = "protobuf" if case["expected"]["mode"] == "protobuf" else "json"
    if not case["expected"]["mode"].startswith(reference):
        not_understood(case["expected"]["mode"])
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        answer = given["client_config"]
        server.script("client/config", Answer(answer["status"], answer["body"]))
        server.defaults["client/dynamic_config"] = Answer(given["dynamic_config"], {"detail": "Not Found"})
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        session.open()
        assert session.capabilities.wire.name == reference
        # No token is requested unless the server enables tokens, even if it has the endpoint.
        assert not server.sent("auth/token")
        if case["expected"]["fb_json"] and str(case["expected"]["fb_json"]).startswith("415"):
            assert reference == "protobuf"
