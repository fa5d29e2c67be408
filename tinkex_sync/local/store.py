"""What outlives the process: sessions, runs, samplers and checkpoints as files under one directory.

::

    sessions/ID.json
    samplers/ID.json  samplers/ID.npz            (the weights of an ephemeral save)
    runs/RUN/run.json
    runs/RUN/weights/SAVE.json  SAVE.npz          (training checkpoints, with optimizer state)
    runs/RUN/sampler_weights/SAVE.json  SAVE.npz  (external_weights as well)
    archives/SAVE.tar.gz                          (made when first asked for)

Every file is written under another name and then renamed, data before the record that names it, so a record
on disk is always whole. Names of saves on disk are ours; the name a user gave is in the record.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import threading
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple
from urllib.parse import quote

import numpy as np
import orjson

from .bodies import Refusal

__all__ = ["FOLDERS", "Record", "Store", "check_name", "now", "parse_path", "tinker_path"]

Record = Dict[str, Any]
Arrays = Mapping[str, "np.ndarray[Any, Any]"]

#: Middle part of a ``tinker://`` path, and the checkpoint type it stands for.
FOLDERS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def now(later: float = 0.0) -> str:
    """The current time, or ``later`` seconds after it, UTC, in ISO 8601. Such texts sort by time."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=later)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def check_name(name: str) -> str:
    """Raises: Refusal: 422, not a name a checkpoint can have."""
    if not _NAME.fullmatch(name):
        raise Refusal(
            422,
            f"path: {name!r} cannot be the name of a checkpoint; use letters, digits, '.', '_' and '-', "
            "at most 128 of them, not starting with '.'",
        )
    return name


def tinker_path(record: Record) -> str:
    """``tinker://RUN/weights/NAME`` or ``tinker://RUN/sampler_weights/NAME``."""
    return f"tinker://{record['run_id']}/{record['folder']}/{record['name']}"


def parse_path(path: str) -> Tuple[str, str, str]:
    """Run, folder and name of a ``tinker://`` path.

    Raises:
        Refusal: 422, it is none.
    """
    parts = path[len("tinker://") :].split("/") if path.startswith("tinker://") else []
    if len(parts) != 3 or parts[1] not in FOLDERS or not all(parts):
        raise Refusal(
            422,
            f"{path!r} is no checkpoint path; one looks like tinker://RUN/weights/NAME or "
            "tinker://RUN/sampler_weights/NAME",
        )
    return parts[0], parts[1], parts[2]


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_record(path: Path, record: Record) -> None:
    _write(path, lambda file: file.write(orjson.dumps(record)))


def _read_records(paths: Iterable[Path]) -> List[Record]:
    return [orjson.loads(path.read_bytes()) for path in paths]


class Store:
    """Records in memory, backed by files.

    Invariant: a record in memory is on disk. No file is touched with ``_lock`` held. Records are never
    changed in place: they are replaced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for leftover in root.glob("**/.*.????????????????????????????????"):
            leftover.unlink()
        self._lock = threading.Lock()
        self._tables: Dict[str, Dict[str, Record]] = {
            "sessions": self._load("sessions", "*.json"),
            "samplers": self._load("samplers", "*.json"),
            "runs": self._load("runs", "*/run.json"),
        }  # guarded by _lock
        self._checkpoints: Dict[Tuple[str, str, str], Record] = {}  # guarded by _lock
        for record in self._load("runs", "*/*weights/*.json").values():
            # Two of one name: the process ended between writing the newer and removing the older.
            older = self._checkpoints.pop(_key(record), None)
            if older is not None:
                self._remove_files(older)
            self._checkpoints[_key(record)] = record

    def _load(self, folder: str, pattern: str) -> Dict[str, Record]:
        records = _read_records((self.root / folder).glob(pattern))
        return {record["id"]: record for record in sorted(records, key=lambda record: str(record["time"]))}

    # Sessions, runs and samplers.

    def _path(self, table: str, id: str) -> Path:
        name = quote(id, safe="")
        return (
            self.root / table / name / "run.json" if table == "runs" else self.root / table / f"{name}.json"
        )

    def put(self, table: str, record: Record, arrays: Optional[Arrays] = None) -> None:
        """Keep a record of "sessions", "runs" or "samplers" under its ``id``, and the arrays of it."""
        path = self._path(table, record["id"])
        if arrays is not None:
            _write(path.with_suffix(".npz"), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        _write_record(path, record)
        with self._lock:
            self._tables[table][record["id"]] = record

    def get(self, table: str, id: str) -> Record:
        """Raises: Refusal: 404, there is none of this id."""
        with self._lock:
            record = self._tables[table].get(id)
        if record is None:
            raise Refusal(404, f"no {table[:-1].replace('run', 'training run')} {id!r} on this server")
        return record

    def all(self, table: str) -> List[Record]:
        """Oldest first."""
        with self._lock:
            return list(self._tables[table].values())

    def sampler_arrays(self, id: str) -> Dict[str, np.ndarray[Any, Any]]:
        """The weights kept with a sampler."""
        return _read_arrays(self._path("samplers", id).with_suffix(".npz"))

    # Checkpoints.

    def save(self, record: Record, arrays: Arrays) -> Record:
        """Keep a checkpoint, in place of one of the same name.

        Args:
            record: With ``run_id``, ``folder``, ``name`` and ``meta``; the rest is filled in.
        """
        record = {**record, "id": uuid.uuid4().hex, "time": now(), "public": False}
        path = self._files(record)
        _write(path.with_suffix(".npz"), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        record["size_bytes"] = path.with_suffix(".npz").stat().st_size
        _write_record(path, record)
        with self._lock:
            replaced = self._checkpoints.pop(_key(record), None)
            self._checkpoints[_key(record)] = record
        if replaced is not None:
            self._remove_files(replaced)
        return record

    def checkpoint(self, run_id: str, folder: str, name: str) -> Record:
        """Raises: Refusal: 404, there is none."""
        with self._lock:
            record = self._checkpoints.get((run_id, folder, name))
        if record is not None and _is_over(record):
            self.delete(record)
            record = None
        if record is None:
            raise Refusal(404, f"no checkpoint tinker://{run_id}/{folder}/{name} on this server")
        return record

    def has(self, run_id: str, folder: str, name: str) -> bool:
        """Whether there is such a checkpoint."""
        with self._lock:
            record = self._checkpoints.get((run_id, folder, name))
        return record is not None and not _is_over(record)

    def checkpoints(self, run_id: Optional[str] = None) -> List[Record]:
        """Those of a run, or all; oldest first."""
        with self._lock:
            found = [record for record in self._checkpoints.values() if run_id in (None, record["run_id"])]
        return [record for record in found if not _is_over(record)]

    def arrays(self, record: Record) -> Dict[str, np.ndarray[Any, Any]]:
        """The weights of a checkpoint."""
        return _read_arrays(self._files(record).with_suffix(".npz"))

    def change(self, record: Record, **fields: Any) -> None:
        """Give fields of a checkpoint's record other values."""
        record = {**record, **fields}
        _write_record(self._files(record), record)
        with self._lock:
            current = self._checkpoints.get(_key(record))
            kept = current is not None and current["id"] == record["id"]
            if kept:
                self._checkpoints[_key(record)] = record
        if not kept:
            # It was deleted or saved anew while the record was being written: leave no record behind.
            self._remove_files(record)

    def delete(self, record: Record) -> None:
        """Forget a checkpoint and remove its files."""
        with self._lock:
            self._checkpoints.pop(_key(record), None)
        self._remove_files(record)

    def archive(self, record: Record) -> Path:
        """A tar.gz of a checkpoint: ``checkpoint.json`` and ``arrays.npz``. The same bytes each time."""
        path = self.root / "archives" / f"{record['id']}.tar.gz"
        if not path.exists():
            about = {
                key: record[key] for key in ("base_model", "lora_rank", "meta", "name", "run_id", "time")
            }
            data = self._files(record).with_suffix(".npz").read_bytes()

            def fill(file: IO[bytes]) -> None:
                packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1)
                with packed, tarfile.open(fileobj=packed, mode="w") as tar:
                    for name, content in (("checkpoint.json", orjson.dumps(about)), ("arrays.npz", data)):
                        entry = tarfile.TarInfo(name)
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))

            _write(path, fill)
        return path

    def _files(self, record: Record) -> Path:
        run, folder, save = (str(record[key]) for key in ("run_id", "folder", "id"))
        return self.root / "runs" / quote(run, safe="") / folder / f"{save}.json"

    def _remove_files(self, record: Record) -> None:
        # The record first: a save without a record is only lost space, the reverse would be a lie.
        path = self._files(record)
        path.unlink(missing_ok=True)
        path.with_suffix(".npz").unlink(missing_ok=True)
        (self.root / "archives" / f"{record['id']}.tar.gz").unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete everything (the directory was a temporary one)."""
        shutil.rmtree(self.root, ignore_errors=True)


def _is_over(record: Record) -> bool:
    """Whether the time for which a checkpoint was to be kept is over."""
    ends: Optional[str] = record.get("expires_at")
    return ends is not None and ends <= now()


def _key(record: Record) -> Tuple[str, str, str]:
    return record["run_id"], record["folder"], record["name"]


def _read_arrays(path: Path) -> Dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
