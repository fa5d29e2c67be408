"""What was made, as the reading endpoints show it: runs, checkpoints, sessions, samplers and archives."""

from __future__ import annotations

import secrets
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .bodies import Refusal
from .models import Models
from .store import FOLDERS, Record, Store, tinker_path

__all__ = ["Rest"]

#: How long an archive link works.
LINK_LIFE = timedelta(minutes=15)

Answer = Dict[str, Any]


def _page(query: Mapping[str, str], default: int) -> Tuple[int, int]:
    """limit and offset of a query string."""
    values = []
    for name, fallback in (("limit", default), ("offset", 0)):
        text = query.get(name, str(fallback))
        if not (text.isascii() and text.isdigit()):
            raise Refusal(422, f"{name}: must be an integer, 0 or more, not {text!r}")
        values.append(int(text))
    return values[0], values[1]


def _checkpoint(record: Record) -> Answer:
    return {
        "checkpoint_id": f"{record['folder']}/{record['name']}",
        "checkpoint_type": FOLDERS[record["folder"]],
        "time": record["time"],
        "tinker_path": tinker_path(record),
        "size_bytes": record["size_bytes"],
        "public": record["public"],
        # Only today's protocol knows these, and they are there only if its saves set them.
        **{name: record[name] for name in ("expires_at", "user_metadata") if name in record},
    }


class Rest:
    """One method per reading endpoint, and the links to archives.

    Invariant: ``_links`` maps the secret part of a link to its file and the time it ends.
    """

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models
        self._lock = threading.Lock()
        self._links: Dict[str, Tuple[Path, datetime]] = {}  # guarded by _lock

    # Runs.

    def _run(self, record: Record) -> Answer:
        last: Dict[str, Optional[Answer]] = dict.fromkeys(FOLDERS)
        for checkpoint in self._store.checkpoints(record["id"]):
            last[checkpoint["folder"]] = _checkpoint(checkpoint)
        return {
            "training_run_id": record["id"],
            "base_model": record["base_model"],
            "model_owner": "local",
            "is_lora": True,
            "corrupted": self._models.corrupted(record["id"]),
            "lora_rank": record["lora_rank"],
            "last_request_time": record["last_request_time"],
            "last_checkpoint": last["weights"],
            "last_sampler_checkpoint": last["sampler_weights"],
            "user_metadata": record["user_metadata"],
        }

    def runs(self, query: Mapping[str, str]) -> Answer:
        """Newest first."""
        limit, offset = _page(query, 20)
        wanted = query.get("project_id")
        ids = [
            record["id"]
            for record in reversed(self._store.all("runs"))
            if wanted is None or wanted == self._project(record)
        ]
        shown = [self.run(id) for id in ids[offset : offset + limit]]
        return {"training_runs": shown, "cursor": _cursor(limit, offset, len(ids))}

    def _project(self, run: Record) -> Optional[str]:
        """Its own, else that of its session."""
        own: Optional[str] = run.get("project_id")
        return own or self._store.get("sessions", run["session_id"]).get("project_id")

    def run(self, run_id: str) -> Answer:
        return self._run(self._models.record(run_id))

    # Checkpoints.

    def run_checkpoints(self, run_id: str) -> Answer:
        self._store.get("runs", run_id)
        return {
            "checkpoints": [_checkpoint(record) for record in self._store.checkpoints(run_id)],
            "cursor": None,
        }

    def checkpoints(self, query: Mapping[str, str]) -> Answer:
        """Of all runs, newest first."""
        limit, offset = _page(query, 100)
        found = [_checkpoint(record) for record in reversed(self._store.checkpoints())]
        return {"checkpoints": found[offset : offset + limit], "cursor": _cursor(limit, offset, len(found))}

    def publish(self, run_id: str, folder: str, name: str, public: bool) -> None:
        self._store.change(self._store.checkpoint(run_id, folder, name), public=public)

    def keep_until(self, run_id: str, folder: str, name: str, ends: Optional[str]) -> None:
        self._store.change(self._store.checkpoint(run_id, folder, name), expires_at=ends)

    def delete(self, run_id: str, folder: str, name: str) -> None:
        self._store.delete(self._store.checkpoint(run_id, folder, name))

    def link(self, run_id: str, folder: str, name: str) -> Tuple[str, datetime]:
        """A path on this server that gives the archive to whoever knows it, and until when."""
        record = self._store.checkpoint(run_id, folder, name)
        file = self._store.archive(record)
        token = secrets.token_urlsafe(24)
        moment = datetime.now(timezone.utc)
        ends = moment + LINK_LIFE
        with self._lock:
            self._links = {known: link for known, link in self._links.items() if link[1] > moment}
            self._links[token] = (file, ends)
        return f"archives/{token}/{name}.tar.gz", ends

    def archive(self, token: str) -> Path:
        """The file behind a link."""
        with self._lock:
            file, ends = self._links.get(token, (Path(), None))
        if ends is None or ends < datetime.now(timezone.utc):
            raise Refusal(403, "this archive link is not valid, or not any more; ask for a new one")
        if not file.exists():
            raise Refusal(404, "the checkpoint of this archive was deleted")
        return file

    # Sessions and samplers.

    def sessions(self, query: Mapping[str, str]) -> Answer:
        """Newest first."""
        limit, offset = _page(query, 20)
        ids = [record["id"] for record in reversed(self._store.all("sessions"))]
        return {"sessions": ids[offset : offset + limit]}

    def session(self, session_id: str) -> Answer:
        self._store.get("sessions", session_id)
        return {
            "training_run_ids": self._ids("runs", session_id),
            "sampler_ids": self._ids("samplers", session_id),
        }

    def _ids(self, table: str, session_id: str) -> List[str]:
        return [record["id"] for record in self._store.all(table) if record["session_id"] == session_id]

    def sampler(self, sampler_id: str) -> Answer:
        record = self._store.get("samplers", sampler_id)
        return {
            "sampler_id": record["id"],
            "base_model": record["base_model"],
            "model_path": record["model_path"],
        }


def _cursor(limit: int, offset: int, total: int) -> Answer:
    return {"offset": offset, "limit": limit, "total_count": total}
