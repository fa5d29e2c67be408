"""The Flask application: authentication, injected faults, operations, and errors as ``{"detail": ...}``."""

from __future__ import annotations

import hmac
from typing import Callable, Dict, Optional

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from ..logs import get_logger
from . import protobuf_bodies
from .browser_protection import find_problem
from .checkpoint_operations import CheckpointOperations
from .faults import Faults
from .idempotency import IDEMPOTENT_OPERATIONS, RecordedResponses, digest
from .json_bodies import Body, RejectedRequest, decode_body, decompress
from .model_operations import ModelOperations
from .resource_routes import KEY_ENDPOINTS, add_client_routes, add_resource_routes, json_response
from .sampling_operations import SamplingOperations
from .server_futures import OperationResult
from .session_operations import SessionOperations
from .state import Handler, ServerState
from .token_issuer import TokenIssuer

__all__ = ["OUTCOME", "Outcome", "create_app"]

_log = get_logger(__name__)

#: The key of an :class:`Outcome` in the WSGI environment.
OUTCOME = "tinkex_sync.outcome"


class Outcome:
    """The fault that the HTTP server must inject when it sends a response."""

    def __init__(self) -> None:
        #: Close the connection without a response.
        self.drop = False
        #: Send half of the body and close the connection.
        self.truncate = False


def create_app(state: ServerState) -> Flask:
    """Create the application.

    Args:
        state: The parts of the server.

    Returns:
        A WSGI application. The environment of each request must contain an :class:`Outcome` under OUTCOME.
    """
    app = Flask("tinkex_sync.local", static_folder=None)
    app.url_map.strict_slashes = False
    tokens = TokenIssuer(state.config.token_lifetime)
    faults, errors = _FaultInjection(state), _ErrorHandlers()
    app.before_request(lambda: _reject_web_pages(state.options.host))
    app.before_request(_Authentication(state, tokens).check)
    app.before_request(lambda: _reject_missing_endpoint(state))
    app.before_request(faults.before_request)
    app.after_request(faults.after_request)
    app.register_error_handler(RejectedRequest, errors.error_response)
    app.register_error_handler(HTTPException, errors.http_exception)
    app.register_error_handler(Exception, errors.unexpected_exception)
    sampling = SamplingOperations(state)
    operations = _OperationRoutes(state)
    for group in (SessionOperations(state), ModelOperations(state), CheckpointOperations(state), sampling):
        operations.add(app, group.handlers())
    _add_poll_route(app, state, sampling)
    _add_information_routes(app, state)
    add_resource_routes(app, state)
    if state.config.supports_0_38:
        add_client_routes(app, state, tokens)
    _add_control_routes(app, state)
    return app


def _reject_web_pages(configured_host: str) -> Optional[Response]:
    """Return an error response (403) if a web page may have caused the request, else None."""
    problem = find_problem(
        request.path, request.headers.get("Host", ""), request.headers.get("Origin"), configured_host
    )
    return None if problem is None else json_response({"detail": problem}, 403)


def _reject_missing_endpoint(state: ServerState) -> Optional[Response]:
    """Return an error response (404) if the server whose rules apply has no such endpoint, else None."""
    if not state.options.strictness.lacks(request.path):
        return None
    return json_response({"detail": "Not Found"}, 404)


class _Authentication:
    """Checks the API key or the token of each request."""

    def __init__(self, state: ServerState, tokens: TokenIssuer) -> None:
        self._api_key = state.options.api_key
        self._requires_token = state.config.requires_token
        self._gate = state.gate
        self._tokens = tokens

    def check(self) -> Optional[Response]:
        """Return an error response (401), or None if the request is allowed."""
        # A link to an archive contains a secret of its own, so its requests carry no key.
        if request.path == "/api/v1/healthz" or request.path.startswith("/archives/"):
            return None
        bearer = request.headers.get("Authorization", "").partition("Bearer ")[2]
        credential = request.headers.get("X-API-Key") or bearer
        if self._requires_token and request.path.startswith("/api/") and request.path not in KEY_ENDPOINTS:
            return self._check_token(credential)
        if self._api_key is None:
            return None
        if not credential:
            return json_response({"detail": "no API key: send it as X-API-Key"}, 401)
        if not hmac.compare_digest(credential.encode(), self._api_key.encode()):
            detail = "this API key is not the one with which this server was started"
            return json_response({"detail": detail}, 401)
        return None

    def _check_token(self, token: str) -> Optional[Response]:
        if token.count(".") != 2:
            detail = "no token: exchange the API key for one at /api/v1/auth/token, and send it as X-API-Key"
            return json_response({"detail": detail}, 401)
        problem = self._tokens.find_problem(token)
        if problem is None and self._gate.rejects_token():
            problem = "this token is rejected (an injected fault)"
        if problem is None:
            return None
        return json_response({"detail": problem}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


class _FaultInjection:
    """Injects faults before and after requests are handled, and counts requests."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def before_request(self) -> Optional[Response]:
        """Delay the request. Return a response if the request must not be handled."""
        endpoint = _fault_endpoint()
        if not endpoint:
            return None
        g.fault = decision = self._state.gate.decide(endpoint)
        if decision.delay:
            self._state.clock.wait(self._state.closing, decision.delay)
        if decision.status is not None:
            return _injected_error(decision.status, self._state.gate.faults)
        if decision.drop_before:
            request.environ[OUTCOME].drop = True
            return json_response({})
        return None

    def after_request(self, response: Response) -> Response:
        """Mark the response to be dropped or truncated, and count the request."""
        outcome, decision, status = request.environ[OUTCOME], g.get("fault"), str(response.status_code)
        if decision is not None and (decision.drop_before or decision.drop_after):
            outcome.drop, status = True, "dropped before" if decision.drop_before else "dropped after"
        elif decision is not None and decision.truncate:
            outcome.truncate, status = True, "truncated"
        # The rule of the URL instead of the path, so that paths with ids are counted together.
        path = str(request.url_rule) if request.url_rule is not None else "(no such endpoint)"
        self._state.stats.count_request(path, status)
        return response


def _fault_endpoint() -> str:
    """Return the name of the requested endpoint in :class:`Faults`. "": faults do not apply to it."""
    parts = request.path.split("/")
    if parts[1] == "archives":
        return parts[1]
    return parts[3] if parts[1:3] == ["api", "v1"] and len(parts) > 3 else ""


def _injected_error(status: int, faults: Faults) -> Response:
    headers = {} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"}
    if faults.error_detail is None:
        return Response(f"injected fault {status}\n", status, headers, mimetype="text/plain")
    return json_response({"detail": faults.error_detail}, status, headers)


class _ErrorHandlers:
    """Makes the error responses, all of them JSON with ``detail``."""

    def error_response(self, error: RejectedRequest) -> Response:
        """Return the response that a handler raised."""
        return json_response({"detail": error.detail, **error.extra}, error.status, error.headers)

    def http_exception(self, error: HTTPException) -> Response:
        """Return the response to an unknown path or a wrong method."""
        if error.code == 404:
            return json_response({"detail": f"no such endpoint: {request.method} {request.path}"}, 404)
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return json_response({"detail": error.description or error.name}, error.code or 500, headers)

    def unexpected_exception(self, error: Exception) -> Response:
        """Log an unexpected exception, and return 500."""
        _log.exception("request failed: method=%s path=%s", request.method, request.path)
        return json_response({"detail": f"{type(error).__name__}: {error}"}, 500)


class _OperationRoutes:
    """Decodes the bodies of operations, and replays the responses to repeated requests."""

    def __init__(self, state: ServerState) -> None:
        self._config = state.config
        self._stats = state.stats
        self._ignores_keys = state.options.strictness.ignores_idempotency_keys
        self._responses = RecordedResponses()

    def add(self, app: Flask, handlers: Dict[str, Handler]) -> None:
        """Add a route POST /api/v1/NAME for each handler."""
        for name, handle in handlers.items():
            app.add_url_rule(f"/api/v1/{name}", name, self._view(name, handle), methods=["POST"])

    def _view(self, name: str, handle: Handler) -> Callable[[], Response]:
        def view() -> Response:
            if name == "forward" and not self._config.supports_0_7:
                raise RejectedRequest(404, "Not Found")  # as gateways respond to unknown paths
            data = request.get_data(cache=False)
            key = request.headers.get("X-Idempotency-Key")
            if key is None or self._ignores_keys or name not in IDEMPOTENT_OPERATIONS:
                return json_response(handle(self._decode(name, data), data))
            response, replayed = self._responses.replay_or_handle(
                name, key, digest(data), lambda: handle(self._decode(name, data), data)
            )
            if replayed:
                self._stats.add("idempotency_hits")
            return json_response(response)

        return view

    def _decode(self, name: str, data: bytes) -> Body:
        decompressed = decompress(data, request.headers.get("Content-Encoding", ""))
        if name != "forward_backward":
            return decode_body(decompressed)
        is_protobuf = request.mimetype == protobuf_bodies.PROTOBUF_TYPE
        if not (self._config.supports_0_38 if is_protobuf else self._config.supports_0_7):
            accepted = protobuf_bodies.PROTOBUF_TYPE if self._config.supports_0_38 else "application/json"
            raise RejectedRequest(415, f"forward_backward needs {accepted} on this server, got {request.mimetype}")
        if not is_protobuf:
            return decode_body(decompressed)
        self._stats.add("protobuf_requests")
        if decompressed is not data:
            self._stats.add("compressed_requests")
        return Body(protobuf_bodies.decode_forward_backward(decompressed))


def _add_poll_route(app: Flask, state: ServerState, sampling: SamplingOperations) -> None:
    config, stats = state.config, state.stats

    @app.post("/api/v1/retrieve_future")
    def retrieve_future() -> Response:
        body = decode_body(request.get_data(cache=False))
        accept = request.headers.get("Accept", "")
        accepts_protobuf = config.supports_0_38 and protobuf_bodies.PROTOBUF_TYPE in accept
        allows_metadata = config.supports_0_38 and body.flag("allow_metadata_only", False)

        def returns_size_only(result: OperationResult) -> bool:
            return allows_metadata and len(result.body_for(accepts_protobuf)) > config.metadata_threshold

        hold = _poll_hold(state.options.hold)
        status, result, response = sampling.poll(body.text("request_id"), hold, returns_size_only)
        if result is None:
            return json_response(response, status)
        content = result.body_for(accepts_protobuf)
        if returns_size_only(result):
            stats.add("metadata_answers")
            return json_response({"status": "complete_metadata", "response_payload_size": len(content)})
        if content is result.protobuf:
            stats.add("protobuf_results")
            return Response(content, mimetype=protobuf_bodies.PROTOBUF_TYPE)
        return json_response(content)


def _poll_hold(hold: float) -> float:
    """Return the seconds to hold this poll, less than the read timeout that the client sends."""
    try:
        read_timeout = float(request.headers.get("x-stainless-read-timeout", "inf"))
    except ValueError:
        return hold
    return max(0.0, min(hold, 0.9 * read_timeout))


def _add_information_routes(app: Flask, state: ServerState) -> None:
    @app.get("/api/v1/get_server_capabilities")
    def get_server_capabilities() -> Response:
        return json_response({"supported_models": [{"model_name": name} for name in state.models.names]})

    @app.get("/api/v1/healthz")
    def healthz() -> Response:
        return json_response({"status": "ok"})


def _add_control_routes(app: Flask, state: ServerState) -> None:
    @app.get("/__stats")
    def read_stats() -> Response:
        return json_response(state.stats.snapshot())

    @app.route("/__faults", methods=["GET", "POST"])
    def faults() -> Response:
        if request.method == "POST":
            try:
                state.gate.replace(Faults.from_dict(decode_body(request.get_data(cache=False)).raw))
            except (TypeError, ValueError) as error:
                raise RejectedRequest(422, str(error)) from None
        return json_response(state.gate.faults.to_dict())
