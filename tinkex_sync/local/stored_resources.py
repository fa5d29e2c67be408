"""The resources that the REST endpoints return and change: runs, checkpoints, sessions, samplers and archives."""

from __future__ import annotations

import secrets
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .engine import adapter_files
from .json_bodies import JsonObject, RejectedRequest
from .models import Models
from .store import FOLDERS, Record, Store, tinker_path

__all__ = ["StoredResources"]

#: How long the link to an archive is valid.
LINK_LIFETIME = timedelta(minutes=15)


def _page(query: Mapping[str, str], default_limit: int) -> Tuple[int, int]:
    """Return limit and offset of a query string."""
    values = []
    for name, default in (("limit", default_limit), ("offset", 0)):
        text = query.get(name, str(default))
        if not (text.isascii() and text.isdigit()):
            raise RejectedRequest(422, f"{name}: must be an integer, 0 or more, not {text!r}")
        values.append(int(text))
    return values[0], values[1]


def _cursor(limit: int, offset: int, total: int) -> JsonObject:
    return {"offset": offset, "limit": limit, "total_count": total}


def _describe_checkpoint(record: Record) -> JsonObject:
    return {
        "checkpoint_id": f"{record['folder']}/{record['name']}",
        "checkpoint_type": FOLDERS[record["folder"]],
        "time": record["time"],
        "tinker_path": tinker_path(record),
        "size_bytes": record["size_bytes"],
        "public": record["public"],
        # Fields of protocol 0.38.0, present only if the request that saved the checkpoint set them.
        **{name: record[name] for name in ("expires_at", "user_metadata") if name in record},
    }


class StoredResources:
    """Reads and changes the stored resources. Thread-safe.

    Invariant: ``_links`` maps the secret part of a link to its file and the time at which it expires.
    """

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models
        self._lock = threading.Lock()
        self._links: Dict[str, Tuple[Path, datetime]] = {}  # guarded by _lock

    # Runs.

    def list_runs(self, query: Mapping[str, str]) -> JsonObject:
        """List runs, newest first. GET /api/v1/training_runs."""
        limit, offset = _page(query, 20)
        project = query.get("project_id")
        ids = [
            record["id"]
            for record in reversed(self._store.all("runs"))
            if project is None or project == self._project_of(record)
        ]
        runs = [self.get_run(id) for id in ids[offset : offset + limit]]
        return {"training_runs": runs, "cursor": _cursor(limit, offset, len(ids))}

    def _project_of(self, run: Record) -> Optional[str]:
        """Return the project of a run, or else that of its session."""
        own: Optional[str] = run.get("project_id")
        try:
            return own or self._store.get("sessions", run["session_id"]).get("project_id")
        except RejectedRequest:
            return None  # The record of the session was damaged.

    def get_run(self, run_id: str) -> JsonObject:
        """Describe a run. GET /api/v1/training_runs/ID."""
        record = self._models.record(run_id)
        last: Dict[str, Optional[JsonObject]] = dict.fromkeys(FOLDERS)
        for checkpoint in self._store.checkpoints(record["id"]):
            last[checkpoint["folder"]] = _describe_checkpoint(checkpoint)
        return {
            "training_run_id": record["id"],
            "base_model": record["base_model"],
            "model_owner": "local",
            "is_lora": True,
            "corrupted": self._models.is_corrupted(record["id"]),
            "lora_rank": record["lora_rank"],
            "last_request_time": record["last_request_time"],
            "last_checkpoint": last["weights"],
            "last_sampler_checkpoint": last["sampler_weights"],
            "user_metadata": record["user_metadata"],
        }

    # Checkpoints.

    def list_run_checkpoints(self, run_id: str) -> JsonObject:
        """List the checkpoints of a run, oldest first. GET /api/v1/training_runs/ID/checkpoints."""
        self._store.get("runs", run_id)
        found = [_describe_checkpoint(record) for record in self._store.checkpoints(run_id)]
        return {"checkpoints": found, "cursor": None}

    def list_checkpoints(self, query: Mapping[str, str]) -> JsonObject:
        """List the checkpoints of all runs, newest first. GET /api/v1/checkpoints."""
        limit, offset = _page(query, 100)
        found = [_describe_checkpoint(record) for record in reversed(self._store.checkpoints())]
        return {"checkpoints": found[offset : offset + limit], "cursor": _cursor(limit, offset, len(found))}

    def change_checkpoint(self, run_id: str, folder: str, name: str, **fields: Any) -> None:
        """Change fields in the record of a checkpoint, such as ``public`` or ``expires_at``."""
        self._store.change(self._store.checkpoint(run_id, folder, name), **fields)

    def delete_checkpoint(self, run_id: str, folder: str, name: str) -> None:
        """Delete a checkpoint."""
        self._store.delete(self._store.checkpoint(run_id, folder, name))

    def create_archive_link(self, run_id: str, folder: str, name: str) -> Tuple[str, datetime]:
        """Create a link to the archive of a checkpoint. The link needs no API key.

        Returns:
            The path of the link on this server, and the time at which it expires.
        """
        record = self._store.checkpoint(run_id, folder, name)
        file = self._store.archive(record, lambda found, arrays: adapter_files(found["meta"], arrays))
        secret = secrets.token_urlsafe(24)
        now = datetime.now(timezone.utc)
        expires = now + LINK_LIFETIME
        with self._lock:
            self._links = {known: link for known, link in self._links.items() if link[1] > now}
            self._links[secret] = (file, expires)
        return f"archives/{secret}/{name}.tar.gz", expires

    def find_archive(self, secret: str) -> Path:
        """Return the file of an archive link.

        Raises:
            RejectedRequest: 403 if the link is not valid, 404 if the checkpoint was deleted.
        """
        with self._lock:
            file, expires = self._links.get(secret, (Path(), None))
        if expires is None or expires < datetime.now(timezone.utc):
            raise RejectedRequest(403, "this archive link is not valid or has expired; request a new one")
        if not file.exists():
            raise RejectedRequest(404, "the checkpoint of this archive was deleted")
        return file

    # Sessions and samplers.

    def list_sessions(self, query: Mapping[str, str]) -> JsonObject:
        """List the ids of sessions, newest first. GET /api/v1/sessions."""
        limit, offset = _page(query, 20)
        ids = [record["id"] for record in reversed(self._store.all("sessions"))]
        return {"sessions": ids[offset : offset + limit]}

    def get_session(self, session_id: str) -> JsonObject:
        """List the runs and samplers of a session. GET /api/v1/sessions/ID."""
        self._store.get("sessions", session_id)
        return {"training_run_ids": self._ids("runs", session_id), "sampler_ids": self._ids("samplers", session_id)}

    def _ids(self, table: str, session_id: str) -> List[str]:
        return [record["id"] for record in self._store.all(table) if record["session_id"] == session_id]

    def get_sampler(self, sampler_id: str) -> JsonObject:
        """Describe a sampler. GET /api/v1/samplers/ID."""
        record = self._store.get("samplers", sampler_id)
        return {"sampler_id": record["id"], "base_model": record["base_model"], "model_path": record["model_path"]}
