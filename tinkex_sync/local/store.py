"""Persistent records: sessions, runs, samplers and checkpoints as files in one directory.

::

    sessions/ID.json
    samplers/ID.json  samplers/ID.npz            (the weights of an ephemeral save)
    runs/RUN/run.json
    runs/RUN/weights/SAVE.json  SAVE.npz          (training checkpoints, with optimizer state)
    runs/RUN/sampler_weights/SAVE.json  SAVE.npz  (external_weights as well)
    archives/SAVE.tar.gz                          (created by the first download)

Every file is written under a temporary name and then renamed. Arrays are written before their record, so a record on
disk is always complete. SAVE is a random id; the record contains the name that the user chose.

A record that was damaged from outside is renamed to ``NAME.json.damaged`` and logged, and the others are served.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import threading
import uuid
import zipfile
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, Tuple, Union
from urllib.parse import quote

import numpy as np
import orjson

from ..logs import get_logger
from .json_bodies import RejectedRequest

__all__ = ["FOLDERS", "DamagedFileError", "Record", "Store", "check_name", "parse_path", "timestamp", "tinker_path"]

_log = get_logger(__name__)

Record = Dict[str, Any]
Arrays = Mapping[str, "np.ndarray[Any, Any]"]

#: The middle part of a ``tinker://`` path, and the type of its checkpoints.
FOLDERS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def timestamp(offset: float = 0.0) -> str:
    """Return the current UTC time plus ``offset`` seconds in ISO 8601. The texts sort by time."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=offset)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def check_name(name: str) -> str:
    """Check the name of a checkpoint, and return it.

    Raises:
        RejectedRequest: 422, the name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise RejectedRequest(
            422,
            f"path: {name!r} cannot be the name of a checkpoint; use at most 128 letters, digits, '.', '_' and '-', "
            "not starting with '.'",
        )
    return name


def tinker_path(record: Record) -> str:
    """Return the path of a checkpoint, such as ``tinker://RUN/weights/NAME``."""
    return f"tinker://{record['run_id']}/{record['folder']}/{record['name']}"


def parse_path(path: str) -> Tuple[str, str, str]:
    """Return the run, the folder and the name of a ``tinker://`` path.

    Raises:
        RejectedRequest: 422, ``path`` is not a checkpoint path.
    """
    parts = path[len("tinker://") :].split("/") if path.startswith("tinker://") else []
    if len(parts) != 3 or parts[1] not in FOLDERS or not all(parts):
        raise RejectedRequest(
            422,
            f"{path!r} is not a checkpoint path; use tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME",
        )
    return parts[0], parts[1], parts[2]


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: after a crash it is complete or absent."""
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


class DamagedFileError(Exception):
    """A file of weights cannot be read. The message contains its path."""


_OPTIONAL_TEXT = (str, type(None))
#: The fields without which a record cannot be used, with their types, per table.
_FIELDS: Dict[str, Dict[str, Union[type, Tuple[type, ...]]]] = {
    "sessions": {"id": str, "time": str},
    "samplers": {"id": str, "session_id": _OPTIONAL_TEXT, "base_model": str, "model_path": _OPTIONAL_TEXT, "time": str},
    "runs": {
        "id": str,
        "session_id": str,
        "base_model": str,
        "lora_rank": int,
        "user_metadata": (dict, type(None)),
        "time": str,
        "last_request_time": str,
    },
    "checkpoints": {
        "id": str,
        "time": str,
        "run_id": str,
        "folder": str,
        "name": str,
        "base_model": str,
        "lora_rank": int,
        "meta": dict,
        "size_bytes": int,
        "public": bool,
    },
}


def _read_record(path: Path, table: str) -> Record:
    """Read a record.

    Raises:
        ValueError: The file does not contain a record of the table.
    """
    record = orjson.loads(path.read_bytes())
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    for name, kind in _FIELDS[table].items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"field {name!r} is missing or has the wrong type")
    return record


class Store:
    """Records in memory, backed by files. Thread-safe.

    Invariant: a record in memory is on disk. No file is read or written with ``_lock`` held. Records are replaced and
    never modified.

    Args:
        root: The directory of the files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for leftover in root.glob("**/.*.????????????????????????????????"):
            leftover.unlink()
        self._lock = threading.Lock()
        self._tables: Dict[str, Dict[str, Record]] = {
            "sessions": self._load("sessions", "sessions/*.json"),
            "samplers": self._load("samplers", "samplers/*.json"),
            "runs": self._load("runs", "runs/*/run.json"),
        }  # guarded by _lock
        self._checkpoints: Dict[Tuple[str, str, str], Record] = {}  # guarded by _lock
        for record in self._load("checkpoints", "runs/*/*weights/*.json").values():
            # Two records of one name: the process ended after it wrote the newer and before it removed the older.
            older = self._checkpoints.pop(_key(record), None)
            if older is not None:
                self._remove_files(older)
            self._checkpoints[_key(record)] = record

    def _load(self, table: str, pattern: str) -> Dict[str, Record]:
        """Read the records of a table, oldest first. Set damaged ones aside."""
        records = []
        for path in self.root.glob(pattern):
            try:
                record = _read_record(path, table)
                expected = self._files(record) if table == "checkpoints" else self._path(table, record["id"])
                if path != expected:
                    raise ValueError(f"it belongs to {expected}")
            except (ValueError, OSError) as error:
                _set_aside(path, error)
            else:
                records.append(record)
        return {record["id"]: record for record in sorted(records, key=lambda record: str(record["time"]))}

    # Sessions, runs and samplers.

    def _path(self, table: str, id: str) -> Path:
        name = quote(id, safe="")
        return self.root / table / name / "run.json" if table == "runs" else self.root / table / f"{name}.json"

    def put(self, table: str, record: Record, arrays: Optional[Arrays] = None) -> None:
        """Save a record under its ``id``.

        Args:
            table: "sessions", "runs" or "samplers".
            record: The record.
            arrays: Weights to save with the record.
        """
        path = self._path(table, record["id"])
        if arrays is not None:
            _write(path.with_suffix(".npz"), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        _write_record(path, record)
        with self._lock:
            self._tables[table][record["id"]] = record

    def get(self, table: str, id: str) -> Record:
        """Return a record.

        Raises:
            RejectedRequest: 404, there is no record of this id.
        """
        with self._lock:
            record = self._tables[table].get(id)
        if record is None:
            raise RejectedRequest(404, f"no {table[:-1].replace('run', 'training run')} {id!r} on this server")
        return record

    def all(self, table: str) -> List[Record]:
        """Return all records of a table, oldest first."""
        with self._lock:
            return list(self._tables[table].values())

    def sampler_arrays(self, id: str) -> Dict[str, np.ndarray[Any, Any]]:
        """Read the weights that were saved with a sampler."""
        return _read_arrays(self._path("samplers", id).with_suffix(".npz"))

    def delete_sampler(self, record: Record) -> None:
        """Delete a sampler and its weights."""
        with self._lock:
            self._tables["samplers"].pop(record["id"], None)
        path = self._path("samplers", record["id"])
        path.unlink(missing_ok=True)
        path.with_suffix(".npz").unlink(missing_ok=True)

    # Checkpoints.

    def save(self, record: Record, arrays: Arrays) -> Record:
        """Save a checkpoint. It replaces one of the same name.

        Args:
            record: A record with ``run_id``, ``folder``, ``name`` and ``meta``.
            arrays: The weights.

        Returns:
            The record with id, time and size.
        """
        record = {**record, "id": uuid.uuid4().hex, "time": timestamp(), "public": False}
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
        """Return the record of a checkpoint. An expired one is deleted.

        Raises:
            RejectedRequest: 404, there is no checkpoint of this name.
        """
        with self._lock:
            record = self._checkpoints.get((run_id, folder, name))
        if record is not None and _is_expired(record):
            self.delete(record)
            record = None
        if record is None:
            raise RejectedRequest(404, f"no checkpoint tinker://{run_id}/{folder}/{name} on this server")
        return record

    def has(self, run_id: str, folder: str, name: str) -> bool:
        """Return whether there is a checkpoint of this name."""
        with self._lock:
            record = self._checkpoints.get((run_id, folder, name))
        return record is not None and not _is_expired(record)

    def checkpoints(self, run_id: Optional[str] = None) -> List[Record]:
        """Return the records of the checkpoints of a run, or of all runs, oldest first."""
        with self._lock:
            found = [record for record in self._checkpoints.values() if run_id in (None, record["run_id"])]
        return [record for record in found if not _is_expired(record)]

    def arrays(self, record: Record) -> Dict[str, np.ndarray[Any, Any]]:
        """Read the weights of a checkpoint."""
        return _read_arrays(self._files(record).with_suffix(".npz"))

    def change(self, record: Record, **fields: Any) -> None:
        """Replace fields in the record of a checkpoint."""
        record = {**record, **fields}
        _write_record(self._files(record), record)
        with self._lock:
            current = self._checkpoints.get(_key(record))
            is_current = current is not None and current["id"] == record["id"]
            if is_current:
                self._checkpoints[_key(record)] = record
        if not is_current:
            # Another request deleted or replaced the checkpoint while the record was being written.
            self._remove_files(record)

    def delete(self, record: Record) -> None:
        """Delete a checkpoint and its files."""
        with self._lock:
            self._checkpoints.pop(_key(record), None)
        self._remove_files(record)

    def archive(self, record: Record, adapter_files: Callable[[Record, Arrays], Mapping[str, bytes]]) -> Path:
        """Return the tar.gz archive of a checkpoint.

        It contains the files of the adapter, ``checkpoint.json`` and, for a training checkpoint, ``arrays.npz`` with
        the optimizer state. The bytes are the same each time, so an interrupted download can be resumed.

        Args:
            record: The checkpoint.
            adapter_files: Returns the files of the adapter by name.
        """
        path = self.root / "archives" / f"{record['id']}.tar.gz"
        if not path.exists():
            keys = ("base_model", "lora_rank", "meta", "name", "run_id", "time")
            files = {
                **adapter_files(record, self.arrays(record)),
                "checkpoint.json": orjson.dumps({key: record[key] for key in keys}),
            }
            if record["folder"] == "weights":
                files["arrays.npz"] = self._files(record).with_suffix(".npz").read_bytes()
            _write(path, lambda file: _pack(file, files))
        return path

    def _files(self, record: Record) -> Path:
        run, folder, save = (str(record[key]) for key in ("run_id", "folder", "id"))
        return self.root / "runs" / quote(run, safe="") / folder / f"{save}.json"

    def _remove_files(self, record: Record) -> None:
        # The record first: arrays without a record only use space, but a record without arrays cannot be loaded.
        path = self._files(record)
        path.unlink(missing_ok=True)
        path.with_suffix(".npz").unlink(missing_ok=True)
        (self.root / "archives" / f"{record['id']}.tar.gz").unlink(missing_ok=True)


def _pack(file: IO[bytes], files: Mapping[str, bytes]) -> None:
    """Write a tar.gz archive, without the time of its creation."""
    packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1)
    with packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _is_expired(record: Record) -> bool:
    """Return whether the lifetime of a checkpoint is over."""
    ends: Optional[str] = record.get("expires_at")
    return ends is not None and ends <= timestamp()


def _key(record: Record) -> Tuple[str, str, str]:
    return record["run_id"], record["folder"], record["name"]


def _read_arrays(path: Path) -> Dict[str, np.ndarray[Any, Any]]:
    """Read a file of weights.

    Raises:
        DamagedFileError: It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(
            f"weights file {path} is damaged ({error}): restore it, or delete its checkpoint"
        ) from error


def _set_aside(path: Path, error: Exception) -> None:
    """Rename a damaged record, so that it is not read again, and log its name."""
    target = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(target)
    except OSError as failure:
        _log.warning("damaged record ignored: file=%s error=%s rename_error=%s", path, error, failure)
    else:
        _log.warning("damaged record set aside: file=%s renamed_to=%s error=%s", path, target.name, error)
