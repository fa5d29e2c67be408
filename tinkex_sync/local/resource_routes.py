"""The routes of endpoints whose paths contain ids, and of the client configuration."""

from __future__ import annotations

from email.utils import format_datetime
from typing import Any, Callable, Dict, Optional

from flask import Flask, Response, request, send_file

from .json_bodies import Body, JsonObject, RejectedRequest, decode_body, encode_json
from .optional_fields import parse_expiry
from .session_operations import SessionOperations
from .state import ServerState
from .stored_resources import StoredResources
from .token_issuer import TokenIssuer

__all__ = ["KEY_ENDPOINTS", "add_client_routes", "add_resource_routes", "json_response"]

#: The endpoints that need the API key itself. All others need a token, if the server requires tokens.
KEY_ENDPOINTS = ("/api/v1/client/config", "/api/v1/auth/token")

RUN = "/api/v1/training_runs/<run_id>"
CHECKPOINT = f"{RUN}/checkpoints/<folder>/<name>"


def json_response(value: Any, status: int = 200, headers: Optional[Dict[str, str]] = None) -> Response:
    """Make a response with a JSON body. ``value`` is an object, or its encoded bytes."""
    body = value if isinstance(value, bytes) else encode_json(value)
    return Response(body, status, headers, mimetype="application/json")


def _request_body() -> Body:
    return decode_body(request.get_data(cache=False))


def add_resource_routes(app: Flask, state: ServerState) -> None:
    """Add the routes of stored resources to an application."""
    resources = StoredResources(state.store, state.models)
    _add_readers(app, resources)
    _add_checkpoint_routes(app, resources, state.base_url)
    if state.config.supports_0_38:
        _add_checkpoint_routes_of_0_38(app, resources, state.base_url)
        _add_session_routes_of_0_38(app, SessionOperations(state))


def _add_readers(app: Flask, resources: StoredResources) -> None:
    readers: Dict[str, Callable[..., JsonObject]] = {
        "/api/v1/training_runs": lambda: resources.list_runs(request.args),
        RUN: resources.get_run,
        f"{RUN}/checkpoints": resources.list_run_checkpoints,
        "/api/v1/checkpoints": lambda: resources.list_checkpoints(request.args),
        "/api/v1/sessions": lambda: resources.list_sessions(request.args),
        "/api/v1/sessions/<session_id>": resources.get_session,
        "/api/v1/samplers/<sampler_id>": resources.get_sampler,
    }

    def view(read: Callable[..., JsonObject]) -> Callable[..., Response]:
        return lambda **parts: json_response(read(**parts))

    for path, read in readers.items():
        app.add_url_rule(path, path, view(read))


def _link(base_url: Optional[str], path: str) -> str:
    """Return the URL of a path. The header Host decides only if the server listens on all addresses."""
    return f"{request.host_url.rstrip('/') if base_url is None else base_url}/{path}"


def _add_checkpoint_routes(app: Flask, resources: StoredResources, base_url: Optional[str]) -> None:
    @app.delete(CHECKPOINT)
    def delete(run_id: str, folder: str, name: str) -> Response:
        resources.delete_checkpoint(run_id, folder, name)
        return json_response({})

    @app.route(f"{CHECKPOINT}/publish", methods=["POST", "DELETE"])
    def publish(run_id: str, folder: str, name: str) -> Response:
        resources.change_checkpoint(run_id, folder, name, public=request.method == "POST")
        return json_response({})

    @app.get(f"{CHECKPOINT}/archive")
    def archive(run_id: str, folder: str, name: str) -> Response:
        path, expires = resources.create_archive_link(run_id, folder, name)
        headers = {"Location": _link(base_url, path), "Expires": format_datetime(expires, usegmt=True)}
        return json_response({}, 302, headers)

    @app.get("/archives/<secret>/<name>")
    def download(secret: str, name: str) -> Response:
        # conditional: support Range, If-Range and If-None-Match by the ETag.
        return send_file(
            resources.find_archive(secret),
            mimetype="application/gzip",
            as_attachment=True,
            download_name=name,
            conditional=True,
        )


def _add_checkpoint_routes_of_0_38(app: Flask, resources: StoredResources, base_url: Optional[str]) -> None:
    @app.put(f"{CHECKPOINT}/ttl")
    def ttl(run_id: str, folder: str, name: str) -> Response:
        resources.change_checkpoint(run_id, folder, name, expires_at=parse_expiry(_request_body()))
        return json_response({})

    @app.get(f"{CHECKPOINT}/external_weights_urls")
    def external_weights_urls(run_id: str, folder: str, name: str) -> Response:
        path, expires = resources.create_archive_link(run_id, folder, name)
        urls = {f"{name}.tar.gz": _link(base_url, path)}
        return json_response({"urls": urls, "expires": expires.isoformat()})


def _add_session_routes_of_0_38(app: Flask, sessions: SessionOperations) -> None:
    @app.post("/api/v1/sessions/<session_id>/finish")
    def finish(session_id: str) -> Response:
        return json_response(sessions.finish_session(session_id, _request_body()))

    @app.put("/api/v1/sessions/<session_id>/project")
    def project(session_id: str) -> Response:
        return json_response(sessions.assign_project(session_id, _request_body()))


def add_client_routes(app: Flask, state: ServerState, tokens: TokenIssuer) -> None:
    """Add the routes of the client configuration and of tokens to an application."""

    @app.post("/api/v1/client/config")
    def client_config() -> Response:
        return json_response(state.config.client_config_response())

    @app.post("/api/v1/client/dynamic_config")
    def dynamic_config() -> Response:
        return json_response(state.config.dynamic_config_response())

    @app.post("/api/v1/auth/token")
    def auth_token() -> Response:
        if not state.config.requires_token:
            raise RejectedRequest(404, "Not Found")
        state.stats.add("tokens_issued")
        return json_response({"jwt": tokens.issue()})
