"""The record of a job in its output folder. It prevents a rerun with other inputs or parameters."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Dict, List, Sequence

from .files import Input
from .job import JobError, Partition

__all__ = ["MANIFEST", "check_manifest", "make_manifest"]

#: Name of the file.
MANIFEST = "_manifest.json"
_VERSION = 1


def make_manifest(inputs: Sequence[Input], partitions: Sequence[Partition], settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the record of a job. Inputs have names without folders, so they may be moved between runs."""
    # Through JSON, so that a new record and a stored one compare equal.
    value: Dict[str, Any] = json.loads(
        json.dumps(
            {
                "version": _VERSION,
                "inputs": [{"name": Path(one.path).name, "sha256": one.sha256, "rows": one.rows} for one in inputs],
                "settings": settings,
                "partition_rows": [one.rows for one in partitions],
            }
        )
    )
    return value


def check_manifest(folder: Path, manifest: Dict[str, Any]) -> None:
    """Write the record of a new job, or compare it with the record of an earlier run.

    Raises:
        JobError: The records differ, or the folder has outputs without a record.
    """
    path = folder / MANIFEST
    if not path.exists():
        others = sorted(one.name for one in folder.glob("part-*"))
        if others:
            raise JobError(f"{folder} has outputs without {MANIFEST}, such as {others[0]}: give another output folder")
        temporary = path.with_name(f"_manifest.{uuid.uuid4().hex}.tmp")
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.replace(path)
        return
    differences = _differences(json.loads(path.read_text()), manifest)
    if differences:
        raise JobError(
            f"{folder} belongs to a job with other {', '.join(differences)}: repeat the first call, or give another"
            " output folder"
        )


def _differences(old: Dict[str, Any], new: Dict[str, Any]) -> List[str]:
    found = [name for name in ("version", "inputs") if old.get(name) != new[name]]
    settings = old.get("settings", {})
    names = sorted({*settings, *new["settings"]})
    found += [f"{name} ({settings.get(name)!r})" for name in names if settings.get(name) != new["settings"].get(name)]
    if not found and old.get("partition_rows") != new["partition_rows"]:
        found.append("partitions")
    return found
