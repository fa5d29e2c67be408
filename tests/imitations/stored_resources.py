"""Stored resources in the form of an imitation: runs, checkpoints, sessions, samplers and archives."""

import json
from urllib.parse import parse_qsl, urlencode

__all__ = ["respond", "endpoint"]

_ENDPOINTS = {"client/config": "client_config", "client/dynamic_config": "dynamic_config", "auth/token": "auth_token"}
_SINGULAR = {"training_runs": "training_run", "sessions": "session", "samplers": "sampler"}


def endpoint(method, path):
    """Return the name of the endpoint of a request, and the ids in its path."""
    endpoint_path = path.partition("?")[0].split("/api/v1/")[-1]
    if endpoint_path in _ENDPOINTS:
        return _ENDPOINTS[endpoint_path], []
    parts = endpoint_path.split("/")
    if parts[0] == "sessions" and parts[-1] == "finish":
        return "finish_session", parts[1:2]
    if len(parts) == 1:
        return parts[0], []
    if len(parts) == 2:
        return _SINGULAR.get(parts[0], parts[-1]), parts[1:]
    if len(parts) == 3:
        return "run_checkpoints", parts[1:2]
    ids = [parts[1], "/".join(part for part in parts[3:] if part not in ("publish", "archive"))]
    if parts[-1] == "archive":
        return "checkpoint_archive", ids
    if parts[-1] == "publish":
        return ("publish_checkpoint" if method == "POST" else "unpublish_checkpoint"), ids
    return "delete_checkpoint", ids


def _time(profile, text):
    if profile.times == "null":
        return None
    return text.replace("Z", "").partition("+")[0] if profile.times == "naive" else text


def _checkpoint(owner, record):
    if record is None:
        return None
    path = owner.to_own_path(record["tinker_path"])
    described = {**record, "tinker_path": path, "checkpoint_id": path.partition("://")[2].partition("/")[2]}
    described["time"] = _time(owner.profile, record["time"])
    return described


def _run(owner, record):
    described = {**record}
    for name in ("last_checkpoint", "last_sampler_checkpoint"):
        described[name] = _checkpoint(owner, record[name])
    if owner.profile.times == "naive":
        described["last_request_time"] = _time(owner.profile, record["last_request_time"])
    return described


def respond(owner, name, method, ids, query):
    """Return status, body and headers of the response."""
    profile, engine = owner.profile, owner.engine
    if name in profile.missing or engine is None:
        return 404, profile.error(404, "Not Found"), {}
    if name.endswith("checkpoint") or name == "checkpoint_archive":
        return _one_checkpoint(owner, name, method, *ids)
    if name == "sampler":
        ids = [owner.samplers.get(ids[0], ids[0])]
    plural = {"training_run": "training_runs", "session": "sessions", "sampler": "samplers"}.get(name, name)
    path = "/".join([plural, *ids]) if name != "run_checkpoints" else f"training_runs/{ids[0]}/checkpoints"
    if query:
        path += "?" + urlencode(parse_qsl(query))
    status, _, content = engine.send("GET", f"/api/v1/{path}")
    body = json.loads(content)
    if status >= 300:
        return status, profile.error(status, body["detail"]), {}
    if "checkpoints" in body:
        body["checkpoints"] = [_checkpoint(owner, record) for record in body["checkpoints"]]
    if name == "training_runs":
        body["training_runs"] = [_run(owner, record) for record in body["training_runs"]]
    if name == "training_run":
        body = _run(owner, body)
    if name == "sampler":
        described = {engine_id: own_id for own_id, engine_id in owner.samplers.items()}
        body["sampler_id"] = described.get(body["sampler_id"], body["sampler_id"])
        body["model_path"] = body["model_path"] and owner.to_own_path(body["model_path"])
    return 200, body, {}


def _one_checkpoint(owner, name, method, run, checkpoint):
    profile = owner.profile
    folder, _, file = (
        owner.to_engine_path(f"tinker://{run}/{checkpoint}").partition("://")[2].partition("/")[2].partition("/")
    )
    path = f"/api/v1/training_runs/{run}/checkpoints/{folder}/{file}"
    tail = {"checkpoint_archive": "/archive", "delete_checkpoint": ""}.get(name, "/publish")
    if name == "checkpoint_archive" and profile.archives == "http, sampler only" and folder != "sampler_weights":
        return 404, profile.error(404, f"Checkpoint not found: {run}/{file}"), {}
    status, headers, content = owner.engine.send(method, path + tail)
    if status >= 400:
        return status, profile.error(status, json.loads(content)["detail"]), {}
    if name == "checkpoint_archive":
        link = f"file:///var/lib/checkpoints/{run}/{file}.tar.gz" if profile.archives == "file" else headers["location"]
        return 302, "", {"Location": link, "Expires": headers["expires"]}
    return profile.deleted, "" if profile.deleted == 204 else {}, {}
