"""The Flask application: operations, the API key, faults, and errors as ``{"detail": ...}``."""

from __future__ import annotations

import hmac
import logging
from typing import Any, Callable, Optional

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from ..concurrency.clock import Clock
from . import packed
from .announced import Announced
from .api import REPLAYED, Api
from .bodies import Body, Refusal, decode
from .faults import FaultGate, Faults
from .models import Models
from .modern import Modern
from .operations import Replays, Result, digest
from .rest import Rest
from .routes import ASKED_WITH_KEY, add_modern, add_reading, json_answer
from .stats import Stats
from .tokens import Tokens

__all__ = ["OUTCOME", "Outcome", "create_app"]

_log = logging.getLogger(__name__)

#: Key in the WSGI environment of an :class:`Outcome`.
OUTCOME = "tinkex_sync.outcome"


class Outcome:
    """What the HTTP server is to do with the answer other than send it."""

    def __init__(self) -> None:
        #: Close the connection without a word.
        self.drop = False
        #: Send half the body and close the connection.
        self.truncate = False


def _injected(status: int, faults: Faults) -> Response:
    headers = {} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"}
    if faults.error_detail is None:
        return Response(f"injected fault {status}\n", status, headers, mimetype="text/plain")
    return json_answer({"detail": faults.error_detail}, status, headers)


def _endpoint() -> str:
    """The name by which faults know what was asked for; "" for what they do not touch."""
    parts = request.path.split("/")
    if parts[1] == "archives":
        return parts[1]
    return parts[3] if parts[1:3] == ["api", "v1"] and len(parts) > 3 else ""


def _shown_path() -> str:
    """The path with placeholders for ids, under which requests are counted."""
    return str(request.url_rule) if request.url_rule is not None else "(no such endpoint)"


def create_app(
    *,
    api: Api,
    modern: Modern,
    rest: Rest,
    models: Models,
    gate: FaultGate,
    stats: Stats,
    announced: Announced,
    api_key: Optional[str],
    hold: float,
    clock: Clock,
    closing: Any,
) -> Flask:
    """The application.

    Args:
        modern: What today's protocol has beside; served only where that is spoken.
        announced: The protocol spoken, and what is said of it.
        api_key: What ``X-API-Key`` (or a bearer token) must be; None: anything goes.
        hold: Seconds for which a poll is held at most.
        closing: Event that ends injected delays when the server closes.
    """
    app = Flask("tinkex_sync.local", static_folder=None)
    app.url_map.strict_slashes = False
    replays, tokens = Replays(), Tokens(announced.token_life)
    operations = {**api.operations, **(modern.operations if announced.modern else {})}

    @app.before_request
    def authorize() -> Optional[Response]:
        # A link to an archive is its own permission: whoever follows it does not send a key.
        if request.path == "/api/v1/healthz" or request.path.startswith("/archives/"):
            return None
        given = (
            request.headers.get("X-API-Key")
            or request.headers.get("Authorization", "").partition("Bearer ")[2]
        )
        if announced.tokens and request.path.startswith("/api/") and request.path not in ASKED_WITH_KEY:
            return authorize_token(given)
        if api_key is None:
            return None
        if not given:
            return json_answer({"detail": "no API key: send it as X-API-Key"}, 401)
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            return json_answer({"detail": "this API key is not the one this server was started with"}, 401)
        return None

    def authorize_token(given: str) -> Optional[Response]:
        if given.count(".") != 2:
            detail = "no token: exchange the API key for one at /api/v1/auth/token, and send it as X-API-Key"
            return json_answer({"detail": detail}, 401)
        complaint = tokens.complaint(given)
        if complaint is None and gate.reject_token():
            complaint = "this token is rejected (an injected fault)"
        if complaint is None:
            return None
        return json_answer({"detail": complaint}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})

    @app.before_request
    def misbehave() -> Optional[Response]:
        endpoint = _endpoint()
        if not endpoint:
            return None
        g.verdict = verdict = gate.judge(endpoint)
        if verdict.delay:
            clock.wait(closing, verdict.delay)
        if verdict.status is not None:
            return _injected(verdict.status, gate.faults)
        if verdict.drop_before:
            request.environ[OUTCOME].drop = True
            return json_answer({})
        return None

    @app.after_request
    def count(response: Response) -> Response:
        outcome, verdict, status = request.environ[OUTCOME], g.get("verdict"), str(response.status_code)
        if verdict is not None and (verdict.drop_before or verdict.drop_after):
            outcome.drop, status = True, "dropped before" if verdict.drop_before else "dropped after"
        elif verdict is not None and verdict.truncate:
            outcome.truncate, status = True, "truncated"
        stats.request(_shown_path(), status)
        return response

    @app.errorhandler(Refusal)
    def refuse(refusal: Refusal) -> Response:
        return json_answer({"detail": refusal.detail, **refusal.extra}, refusal.status, refusal.headers)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code == 404:
            return json_answer({"detail": f"no such endpoint: {request.method} {request.path}"}, 404)
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return json_answer({"detail": error.description or error.name}, error.code or 500, headers)

    @app.errorhandler(Exception)
    def crash(error: Exception) -> Response:
        _log.exception("%s %s failed", request.method, request.path)
        return json_answer({"detail": f"{type(error).__name__}: {error}"}, 500)

    def read(name: str, data: bytes) -> Body:
        if name != "forward_backward":
            return decode(data)
        is_packed = request.mimetype == packed.PROTOBUF
        if not (announced.modern if is_packed else announced.old):
            wanted = packed.PROTOBUF if announced.modern else "application/json"
            raise Refusal(415, f"forward_backward takes {wanted} on this server, not {request.mimetype}")
        if not is_packed:
            return decode(data)
        stats.add("protobuf_requests")
        plain = packed.inflate(data, request.headers.get("Content-Encoding", ""))
        if plain is not data:
            stats.add("compressed_requests")
        return Body(packed.forward_backward(plain))

    def operation(name: str) -> Callable[[], Response]:
        handle = operations[name]

        def view() -> Response:
            if name == "forward" and not announced.old:
                raise Refusal(404, "Not Found")  # what gateways say of paths they do not know
            data = request.get_data(cache=False)
            key = request.headers.get("X-Idempotency-Key")
            if key is None or name not in REPLAYED:
                return json_answer(handle(read(name, data), data))
            answer, replayed = replays.answer(name, key, digest(data), lambda: handle(read(name, data), data))
            if replayed:
                stats.add("idempotency_hits")
            return json_answer(answer)

        return view

    for name in operations:
        app.add_url_rule(f"/api/v1/{name}", name, operation(name), methods=["POST"])

    @app.post("/api/v1/retrieve_future")
    def retrieve_future() -> Response:
        body = decode(request.get_data(cache=False))
        wants_packed = announced.modern and packed.PROTOBUF in request.headers.get("Accept", "")
        peeks = announced.modern and body.flag("allow_metadata_only", False)

        def peek(result: Result) -> bool:
            return peeks and len(result.as_wanted(wants_packed)) > announced.metadata_above

        status, result, answer = api.poll(body.text("request_id"), _hold(hold), peek)
        if result is None:
            return json_answer(answer, status)
        content = result.as_wanted(wants_packed)
        if peek(result):
            stats.add("metadata_answers")
            return json_answer({"status": "complete_metadata", "response_payload_size": len(content)})
        if content is result.packed:
            stats.add("protobuf_results")
            return Response(content, mimetype=packed.PROTOBUF)
        return json_answer(content)

    @app.get("/api/v1/get_server_capabilities")
    def get_server_capabilities() -> Response:
        return json_answer({"supported_models": [{"model_name": name} for name in models.names]})

    @app.get("/api/v1/healthz")
    def healthz() -> Response:
        return json_answer({"status": "ok"})

    add_reading(app, rest)
    if announced.modern:
        add_modern(app, modern, rest, announced, tokens)
    _add_control(app, gate, stats)
    return app


def _hold(hold: float) -> float:
    """How long to hold this poll: a client that says how long it reads is answered before it gives up."""
    try:
        patience = float(request.headers.get("x-stainless-read-timeout", "inf"))
    except ValueError:
        return hold
    return max(0.0, min(hold, 0.9 * patience))


def _add_control(app: Flask, gate: FaultGate, stats: Stats) -> None:
    @app.get("/__stats")
    def read_stats() -> Response:
        return json_answer(stats.snapshot())

    @app.route("/__faults", methods=["GET", "POST"])
    def faults() -> Response:
        if request.method == "POST":
            try:
                gate.replace(Faults.from_dict(decode(request.get_data(cache=False)).raw))
            except (TypeError, ValueError) as error:
                raise Refusal(422, str(error)) from None
        return json_answer(gate.faults.to_dict())
