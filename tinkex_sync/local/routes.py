"""Endpoints with a path of their own: what was made, and the start and end of a session of today's protocol."""

from __future__ import annotations

from email.utils import format_datetime
from typing import Any, Callable, Dict, Optional

from flask import Flask, Response, request, send_file

from .announced import Announced
from .bodies import Body, Refusal, decode, encode
from .extras import kept_until
from .modern import Modern
from .rest import Rest
from .tokens import Tokens

__all__ = ["ASKED_WITH_KEY", "add_modern", "add_reading", "json_answer"]

#: What carries the key itself, where everything else carries a token.
ASKED_WITH_KEY = ("/api/v1/client/config", "/api/v1/auth/token")

RUN = "/api/v1/training_runs/<run_id>"
CHECKPOINT = f"{RUN}/checkpoints/<folder>/<name>"


def json_answer(answer: Any, status: int = 200, headers: Optional[Dict[str, str]] = None) -> Response:
    """A response of JSON, which may be encoded already."""
    body = answer if isinstance(answer, bytes) else encode(answer)
    return Response(body, status, headers, mimetype="application/json")


def add_reading(app: Flask, rest: Rest) -> None:
    """The endpoints about what was made, at level 0.7.0."""
    readings: Dict[str, Callable[..., Any]] = {
        "/api/v1/training_runs": lambda: rest.runs(request.args),
        RUN: rest.run,
        f"{RUN}/checkpoints": rest.run_checkpoints,
        "/api/v1/checkpoints": lambda: rest.checkpoints(request.args),
        "/api/v1/sessions": lambda: rest.sessions(request.args),
        "/api/v1/sessions/<session_id>": rest.session,
        "/api/v1/samplers/<sampler_id>": rest.sampler,
    }

    def reading(read: Callable[..., Any]) -> Callable[..., Response]:
        return lambda **parts: json_answer(read(**parts))

    for path, read in readings.items():
        app.add_url_rule(path, path, reading(read))

    @app.delete(CHECKPOINT)
    def delete(run_id: str, folder: str, name: str) -> Response:
        rest.delete(run_id, folder, name)
        return json_answer({})

    @app.route(f"{CHECKPOINT}/publish", methods=["POST", "DELETE"])
    def publish(run_id: str, folder: str, name: str) -> Response:
        rest.publish(run_id, folder, name, request.method == "POST")
        return json_answer({})

    @app.get(f"{CHECKPOINT}/archive")
    def archive(run_id: str, folder: str, name: str) -> Response:
        path, ends = rest.link(run_id, folder, name)
        expires = format_datetime(ends, usegmt=True)
        return json_answer({}, 302, {"Location": request.host_url + path, "Expires": expires})

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


def add_modern(app: Flask, modern: Modern, rest: Rest, announced: Announced, tokens: Tokens) -> None:
    """The endpoints that came after level 0.7.0."""

    @app.post("/api/v1/client/config")
    def client_config() -> Response:
        return json_answer(announced.config())

    @app.post("/api/v1/client/dynamic_config")
    def dynamic_config() -> Response:
        return json_answer(announced.dynamic())

    @app.post("/api/v1/auth/token")
    def auth_token() -> Response:
        if not announced.tokens:
            raise Refusal(404, "Not Found")  # It would be of no use.
        return json_answer({"jwt": modern.token(tokens)})

    def body() -> Body:
        return decode(request.get_data(cache=False))

    @app.post("/api/v1/sessions/<session_id>/finish")
    def finish(session_id: str) -> Response:
        return json_answer(modern.finish_session(session_id, body()))

    @app.put("/api/v1/sessions/<session_id>/project")
    def project(session_id: str) -> Response:
        return json_answer(modern.assign_project(session_id, body()))

    @app.put(f"{CHECKPOINT}/ttl")
    def ttl(run_id: str, folder: str, name: str) -> Response:
        rest.keep_until(run_id, folder, name, kept_until(body()))
        return json_answer({})

    @app.get(f"{CHECKPOINT}/external_weights_urls")
    def external_weights_urls(run_id: str, folder: str, name: str) -> Response:
        path, ends = rest.link(run_id, folder, name)
        return json_answer({"urls": {f"{name}.tar.gz": request.host_url + path}, "expires": ends.isoformat()})
