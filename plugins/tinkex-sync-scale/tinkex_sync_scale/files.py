"""Read the rows of partitions, and write their outputs so that a file is either complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple, Union

import orjson

from .job import FORMATS, Job, JobError, Partition

__all__ = [
    "Input", "OutputFile", "find_inputs", "output_path", "plan_partitions", "process_name", "read_rows",
    "remove_leftovers",
]  # fmt: skip


@dataclass(frozen=True)
class Input:
    """One input file as it was when the job was planned."""

    path: str
    #: SHA-256 of the content, in hexadecimal.
    sha256: str
    rows: int


def find_inputs(dataset: Union[str, Path, Sequence[Union[str, Path]]]) -> List[Path]:
    """Return the files of a path, of a folder, or of a list of paths.

    A folder contributes its files with a known suffix whose names begin with neither ``_`` nor ``.``.

    Raises:
        JobError: There is none, their formats differ, or two have the same name.
    """
    paths = [Path(one) for one in ([dataset] if isinstance(dataset, (str, Path)) else dataset)]
    files: List[Path] = []
    for path in paths:
        if path.is_dir():
            found = (one for one in path.iterdir() if one.suffix[1:] in FORMATS and one.name[0] not in "_.")
            files += sorted(found, key=_natural_order)
        else:
            files.append(path)
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise JobError(f"there is no input file {', '.join(missing)}")
    suffixes = {path.suffix[1:] for path in files}
    if len(suffixes) != 1 or not suffixes <= set(FORMATS):
        raise JobError(f"inputs must be .jsonl files or .parquet files, not both, got {[str(path) for path in paths]}")
    names = {path.name for path in files}
    if len(names) != len(files):
        raise JobError("two inputs have the same name, so the output could not say which one a row belongs to")
    return [path.resolve() for path in files]


def _natural_order(path: Path) -> List[Tuple[int, str]]:
    """Order part.10 behind part.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def plan_partitions(files: Sequence[Path], rows_per_partition: int) -> Tuple[List[Input], List[Partition]]:
    """Read all inputs once, and divide each into partitions.

    Raises:
        JobError: The inputs contain no row.
    """
    inputs: List[Input] = []
    partitions: List[Partition] = []
    for path in files:
        digest, rows, offsets = hashlib.sha256(), 0, [0]
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                for line in file:
                    digest.update(line)
                    if not line.strip():
                        continue
                    if rows and rows % rows_per_partition == 0:
                        offsets.append(file.tell() - len(line))
                    rows += 1
        else:
            import pyarrow.parquet as pq

            with path.open("rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):  # noqa: B023 - it is called in this iteration
                    digest.update(block)
            rows = pq.read_metadata(path).num_rows
            offsets = [0] * -(-rows // rows_per_partition)
        inputs.append(Input(str(path), digest.hexdigest(), rows))
        for number, first in enumerate(range(0, rows, rows_per_partition)):
            size = min(rows_per_partition, rows - first)
            partitions.append(Partition(len(partitions), str(path), first, size, offsets[number]))
    if not partitions:
        raise JobError("the inputs contain no row")
    return inputs, partitions


def read_rows(partition: Partition, columns: Sequence[str]) -> Tuple[List[Dict[str, Any]], Any]:
    """Read the columns of a partition that exist.

    Returns:
        The rows, and the Arrow schema of a Parquet file or None.

    Raises:
        JobError: The file no longer has these rows.
    """
    path = Path(partition.path)
    schema: Any = None
    if path.suffix == ".jsonl":
        rows = list(_read_lines(path, partition, columns))
    else:
        table = _read_parquet(path, partition, columns)
        rows, schema = table.to_pylist(), table.schema
    if len(rows) != partition.rows:
        raise JobError(f"{path} was changed: it has {len(rows)} rows from row {partition.first_row} on")
    return rows, schema


def _read_lines(path: Path, partition: Partition, columns: Sequence[str]) -> Iterator[Dict[str, Any]]:
    left = partition.rows
    with path.open("rb") as file:
        file.seek(partition.offset)
        for line in file:
            if left and line.strip():
                left -= 1
                position = partition.first_row + partition.rows - left - 1
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise JobError(f"{path}, row {position}: {error}") from None
                if not isinstance(value, dict):
                    raise JobError(f"{path}, row {position}: a row must be an object")
                yield {name: value[name] for name in columns if name in value}
            if not left:
                return


def _read_parquet(path: Path, partition: Partition, columns: Sequence[str]) -> Any:
    """Read the row groups that contain the partition, and return its rows as a table."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        groups: List[int] = []
        start, first_of_groups = 0, 0
        for number in range(file.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if start < partition.first_row + partition.rows and start + size > partition.first_row:
                if not groups:
                    first_of_groups = start
                groups.append(number)
            start += size
        table = file.read_row_groups(groups, columns=present)
    return table.slice(partition.first_row - first_of_groups, partition.rows)


def process_name() -> str:
    """Return the name of this process in results and temporary files, as HOST-PID."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', socket.gethostname())}-{os.getpid()}"


def output_path(job_output: Union[str, Path], file_format: str, partition: Partition) -> Path:
    """Return the path of the output of a partition."""
    return Path(job_output, f"{partition.stem}.{file_format}")


class OutputFile:
    """The output of one attempt to sample a partition. Used by one thread.

    The temporary file is made at the start. Its name, ``_part-NNNNN.HOST-PID.UNIQUE.tmp``, shows which process samples
    the partition. :meth:`commit` renames it. If two attempts commit, one file replaces the other, so every row is
    answered once.
    """

    def __init__(self, job: Job, partition: Partition) -> None:
        self._job = job
        self._path = output_path(job.output, job.file_format, partition)
        self._temporary = self._path.with_name(f"_{partition.stem}.{process_name()}.{uuid.uuid4().hex}.tmp")
        self._temporary.touch()

    def commit(self, rows: List[Dict[str, Any]], schema: Any) -> None:
        """Write all rows, and make the file visible under its name.

        Args:
            rows: The rows of the output.
            schema: The Arrow schema of the input, or None.
        """
        if self._job.file_format == "jsonl":
            with self._temporary.open("wb") as file:
                file.writelines(orjson.dumps(row, default=str) + b"\n" for row in rows)
        else:
            self._write_parquet(rows, schema)
        with self._temporary.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            self._temporary.replace(self._path)
        except FileNotFoundError:
            # Another attempt has committed, and the driver has removed what was left.
            if not self._path.exists():
                raise

    def discard(self) -> None:
        """Remove the temporary file, if it exists."""
        self._temporary.unlink(missing_ok=True)

    def _write_parquet(self, rows: List[Dict[str, Any]], schema: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sequence = [("text", pa.string()), ("tokens", pa.list_(pa.int64())), ("stop_reason", pa.string())]
        if self._job.logprobs:
            sequence.append(("logprobs", pa.list_(pa.float64())))
        fields = [("file", pa.string()), ("index", pa.int64())]
        name = self._job.id_column
        if schema is None:
            # JSON lines have no schema: text is the one type that is the same in every partition.
            rows = [{**row, "id": None if row.get("id") is None else str(row["id"])} for row in rows]
            fields.append(("id", pa.string()))
        elif name in schema.names:
            fields.append(("id", schema.field(name).type))
        fields += [("sequences", pa.list_(pa.struct(sequence))), ("error", pa.string())]
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), self._temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed workers. Call it when every partition is committed."""
    for path in folder.glob("_part-*.tmp"):
        path.unlink(missing_ok=True)
