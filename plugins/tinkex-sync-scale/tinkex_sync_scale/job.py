"""The values that describe a job and its results. All of them are immutable and can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

from tinkex_sync.errors import TinkexError

__all__ = ["FORMATS", "Job", "JobError", "Partition", "PartitionResult", "Progress", "Report"]

#: Formats of inputs and outputs; they are also the suffixes of files.
FORMATS = ("jsonl", "parquet")


class JobError(TinkexError):
    """A job cannot run, or has not sampled every row. Running it again continues it."""


@dataclass(frozen=True)
class Partition:
    """The rows that one task samples and one output file answers."""

    index: int
    #: Path of the input file.
    path: str
    #: Position of the first row in the input file.
    first_row: int
    rows: int
    #: Position of the first byte in a JSONL file; 0 for Parquet.
    offset: int

    @property
    def stem(self) -> str:
        """The name of the output file without its suffix."""
        return f"part-{self.index:05d}"


@dataclass(frozen=True)
class Job:
    """The facts that every worker needs."""

    #: Folder of the output, on a file system that all workers share.
    output: str
    #: Format of the output.
    file_format: str
    #: The pickled sampling client.
    sampler: bytes
    #: The server session of the sampling client.
    session_id: str
    #: Fields of ``SamplingParams``.
    params: Dict[str, Any]
    num_samples: int
    prompt_column: str
    id_column: str
    on_error: str
    timeout: Optional[float]
    #: Identifier or path of the tokenizer; None: the tokenizer of the model.
    tokenizer: Optional[str]
    #: Whether the output contains the log probability of each token.
    logprobs: bool
    #: Most samples in flight in one task; before the cluster is known, in the whole job.
    share: int


@dataclass(frozen=True)
class PartitionResult:
    """The result of one task."""

    index: int
    #: Rows that this task sampled; 0 if another attempt had committed the partition.
    rows: int
    #: Rows of them whose sample failed.
    failed: int
    #: Seconds that the task waited because another process reported a 429.
    waited: float
    #: The worker process, as HOST-PID.
    process: str


@dataclass(frozen=True)
class Progress:
    """The state of a running job."""

    partitions: int
    partitions_done: int
    rows: int
    rows_done: int
    #: Seconds since the job started.
    elapsed: float


@dataclass(frozen=True)
class Report:
    """The result of a job."""

    rows: int
    partitions: int
    #: Partitions that an earlier run had committed.
    partitions_skipped: int
    #: Rows that this run sampled and committed.
    rows_sampled: int
    #: Rows that this run committed with an error in place of a response.
    rows_failed: int
    seconds: float
    #: Seconds that the tasks waited because another process reported a 429, added up.
    waited: float
    #: Number of processes that committed partitions.
    processes: int
    output: str
