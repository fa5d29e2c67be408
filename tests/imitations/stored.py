"""What is stored, as an imitation shows it: runs, checkpoints, sessions, samplers, archives."""

import json
from urllib.parse import parse_qsl, urlencode

__all__ = ["answer", "endpoint"]

_NAMED = {
    "client/config": "client_config",
    "client/dynamic_config": "dynamic_config",
    "auth/token": "auth_token",
}
_ONE = {"training_runs": "training_run", "sessions": "session", "samplers": "sampler"}


def endpoint(method, path):
    """Name of the endpoint of a request, and what its path names."""
    named = path.partition("?")[0].split("/api/v1/")[-1]
    if named in _NAMED:
        return _NAMED[named], []
    parts = named.split("/")
    if parts[0] == "sessions" and parts[-1] == "finish":
        return "finish_session", parts[1:2]
    if len(parts) == 1:
        return parts[0], []
    if len(parts) == 2:
        return _ONE.get(parts[0], parts[-1]), parts[1:]
    if len(parts) == 3:
        return "run_checkpoints", parts[1:2]
    ids = [parts[1], "/".join(part for part in parts[3:] if part not in ("publish", "archive"))]
    if parts[-1] == "archive":
        return "checkpoint_archive", ids
    if parts[-1] == "publish":
        return ("publish_checkpoint" if method == "POST" else "unpublish_checkpoint"), ids
    return "delete_checkpoint", ids


def _time(column, text):
    if column.times == "null":
        return None
    return text.replace("Z", "").partition("+")[0] if column.times == "naive" else text


def _checkpoint(owner, record):
    if record is None:
        return None
    path = owner.shown(record["tinker_path"])
    shown = {**record, "tinker_path": path, "checkpoint_id": path.partition("://")[2].partition("/")[2]}
    shown["time"] = _time(owner.column, record["time"])
    return shown


def _run(owner, record):
    shown = {**record}
    for name in ("last_checkpoint", "last_sampler_checkpoint"):
        shown[name] = _checkpoint(owner, record[name])
    if owner.column.times == "naive":
        shown["last_request_time"] = _time(owner.column, record["last_request_time"])
    return shown


def answer(owner, name, method, ids, query):
    """Status, body and headers."""
    column, engine = owner.column, owner.engine
    if name in column.missing or engine is None:
        return 404, column.error(404, "Not Found"), {}
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
        return status, column.error(status, body["detail"]), {}
    if "checkpoints" in body:
        body["checkpoints"] = [_checkpoint(owner, record) for record in body["checkpoints"]]
    if name == "training_runs":
        body["training_runs"] = [_run(owner, record) for record in body["training_runs"]]
    if name == "training_run":
        body = _run(owner, body)
    if name == "sampler":
        shown = {theirs: ours for ours, theirs in owner.samplers.items()}
        body["sampler_id"] = shown.get(body["sampler_id"], body["sampler_id"])
        body["model_path"] = body["model_path"] and owner.shown(body["model_path"])
    return 200, body, {}


def _one_checkpoint(owner, name, method, run, checkpoint):
    column = owner.column
    folder, _, file = (
        owner.stored(f"tinker://{run}/{checkpoint}").partition("://")[2].partition("/")[2].partition("/")
    )
    path = f"/api/v1/training_runs/{run}/checkpoints/{folder}/{file}"
    tail = {"checkpoint_archive": "/archive", "delete_checkpoint": ""}.get(name, "/publish")
    if (
        name == "checkpoint_archive"
        and column.archives == "http, sampler only"
        and folder != "sampler_weights"
    ):
        return 404, column.error(404, f"Checkpoint not found: {run}/{file}"), {}
    status, headers, content = owner.engine.send(method, path + tail)
    if status >= 400:
        return status, column.error(status, json.loads(content)["detail"]), {}
    if name == "checkpoint_archive":
        link = (
            f"file:///var/lib/checkpoints/{run}/{file}.tar.gz"
            if column.archives == "file"
            else headers["location"]
        )
        return 302, "", {"Location": link, "Expires": headers["expires"]}
    return column.deleted, "" if column.deleted == 204 else {}, {}
