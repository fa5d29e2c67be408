"""The Flask application: paths, the API key, faults, and errors as ``{"detail": ...}``."""

from __future__ import annotations

import hmac
import logging
from typing import Any, Callable, Dict, Optional

from flask import Flask, Response, g, request, send_file
from werkzeug.exceptions import HTTPException

from ..clock import Clock
from . import packed
from .announced import Announced
from .api import REPLAYED, Api
from .bodies import Body, Refusal, decode, encode
from .faults import FaultGate, Faults
from .models import Models
from .operations import Replays, Result, digest
from .rest import Rest
from .stats import Stats

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


def _json(answer: Any, status: int = 200, headers: Optional[Dict[str, str]] = None) -> Response:
    body = answer if isinstance(answer, bytes) else encode(answer)
    return Response(body, status, headers, mimetype="application/json")


def _injected(status: int, faults: Faults) -> Response:
    headers = {} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"}
    if faults.error_detail is None:
        return Response(f"injected fault {status}\n", status, headers, mimetype="text/plain")
    return _json({"detail": faults.error_detail}, status, headers)


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
        announced: The protocol spoken, and what is said of it.
        api_key: What ``X-API-Key`` (or a bearer token) must be; None: anything goes.
        hold: Seconds for which a poll is held at most.
        closing: Event that ends injected delays when the server closes.
    """
    app = Flask("tinkex_sync.local", static_folder=None)
    app.url_map.strict_slashes = False
    replays = Replays()

    @app.before_request
    def authorize() -> Optional[Response]:
        # A link to an archive is its own permission: whoever follows it does not send a key.
        if api_key is None or request.path == "/api/v1/healthz" or request.path.startswith("/archives/"):
            return None
        given = (
            request.headers.get("X-API-Key")
            or request.headers.get("Authorization", "").partition("Bearer ")[2]
        )
        if not given:
            return _json({"detail": "no API key: send it as X-API-Key"}, 401)
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            return _json({"detail": "this API key is not the one this server was started with"}, 401)
        return None

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
            return _json({})
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
        return _json({"detail": refusal.detail, **refusal.extra}, refusal.status, refusal.headers)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code == 404:
            return _json({"detail": f"no such endpoint: {request.method} {request.path}"}, 404)
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return _json({"detail": error.description or error.name}, error.code or 500, headers)

    @app.errorhandler(Exception)
    def crash(error: Exception) -> Response:
        _log.exception("%s %s failed", request.method, request.path)
        return _json({"detail": f"{type(error).__name__}: {error}"}, 500)

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
        handle = api.operations[name]

        def view() -> Response:
            if name == "forward" and not announced.old:
                raise Refusal(404, "Not Found")  # what gateways say of paths they do not know
            data = request.get_data(cache=False)
            key = request.headers.get("X-Idempotency-Key")
            if key is None or name not in REPLAYED:
                return _json(handle(read(name, data), data))
            answer, replayed = replays.answer(name, key, digest(data), lambda: handle(read(name, data), data))
            if replayed:
                stats.add("idempotency_hits")
            return _json(answer)

        return view

    for name in api.operations:
        app.add_url_rule(f"/api/v1/{name}", name, operation(name), methods=["POST"])
    if announced.modern:
        _add_start_up(app, announced)

    @app.post("/api/v1/retrieve_future")
    def retrieve_future() -> Response:
        body = decode(request.get_data(cache=False))
        wants_packed = announced.modern and packed.PROTOBUF in request.headers.get("Accept", "")
        peeks = announced.modern and body.flag("allow_metadata_only", False)

        def peek(result: Result) -> bool:
            return peeks and len(result.as_wanted(wants_packed)) > announced.metadata_above

        status, result, answer = api.poll(body.text("request_id"), _hold(hold), peek)
        if result is None:
            return _json(answer, status)
        content = result.as_wanted(wants_packed)
        if peek(result):
            stats.add("metadata_answers")
            return _json({"status": "complete_metadata", "response_payload_size": len(content)})
        if content is result.packed:
            stats.add("protobuf_results")
            return Response(content, mimetype=packed.PROTOBUF)
        return _json(content)

    @app.get("/api/v1/get_server_capabilities")
    def get_server_capabilities() -> Response:
        return _json({"supported_models": [{"model_name": name} for name in models.names]})

    @app.get("/api/v1/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    _add_reading(app, rest)
    _add_control(app, gate, stats)
    return app


def _hold(hold: float) -> float:
    """How long to hold this poll: a client that says how long it reads is answered before it gives up."""
    try:
        patience = float(request.headers.get("x-stainless-read-timeout", "inf"))
    except ValueError:
        return hold
    return max(0.0, min(hold, 0.9 * patience))


def _add_start_up(app: Flask, announced: Announced) -> None:
    @app.post("/api/v1/client/config")
    def client_config() -> Response:
        return _json(announced.config())

    @app.post("/api/v1/client/dynamic_config")
    def dynamic_config() -> Response:
        return _json(announced.dynamic())


def _add_reading(app: Flask, rest: Rest) -> None:
    run = "/api/v1/training_runs/<run_id>"
    checkpoint = f"{run}/checkpoints/<folder>/<name>"
    readings: Dict[str, Callable[..., Any]] = {
        "/api/v1/training_runs": lambda: rest.runs(request.args),
        run: rest.run,
        f"{run}/checkpoints": rest.run_checkpoints,
        "/api/v1/checkpoints": lambda: rest.checkpoints(request.args),
        "/api/v1/sessions": lambda: rest.sessions(request.args),
        "/api/v1/sessions/<session_id>": rest.session,
        "/api/v1/samplers/<sampler_id>": rest.sampler,
    }

    def reading(read: Callable[..., Any]) -> Callable[..., Response]:
        return lambda **parts: _json(read(**parts))

    for path, read in readings.items():
        app.add_url_rule(path, path, reading(read))

    @app.delete(checkpoint)
    def delete(run_id: str, folder: str, name: str) -> Response:
        rest.delete(run_id, folder, name)
        return _json({})

    @app.route(f"{checkpoint}/publish", methods=["POST", "DELETE"])
    def publish(run_id: str, folder: str, name: str) -> Response:
        rest.publish(run_id, folder, name, request.method == "POST")
        return _json({})

    @app.get(f"{checkpoint}/archive")
    def archive(run_id: str, folder: str, name: str) -> Response:
        path, expires = rest.link(run_id, folder, name)
        return _json({}, 302, {"Location": request.host_url + path, "Expires": expires})

    @app.get("/archives/<token>/<name>")
    def download(token: str, name: str) -> Response:
        # conditional: answers Range, If-Range and If-None-Match by the ETag.
        return send_file(
            rest.archive(token),
            mimetype="application/gzip",
            as_attachment=True,
            download_name=name,
            conditional=True,
        )


def _add_control(app: Flask, gate: FaultGate, stats: Stats) -> None:
    @app.get("/__stats")
    def read_stats() -> Response:
        return _json(stats.snapshot())

    @app.route("/__faults", methods=["GET", "POST"])
    def faults() -> Response:
        if request.method == "POST":
            try:
                gate.replace(Faults.from_dict(decode(request.get_data(cache=False)).raw))
            except (TypeError, ValueError) as error:
                raise Refusal(422, str(error)) from None
        return _json(gate.faults.to_dict())
