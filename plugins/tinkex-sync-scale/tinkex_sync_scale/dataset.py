"""The public function: plan a job, run it on an engine, and check that every row is answered."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence, Type, Union

from tinkex_sync import types

from .engines import ENGINES, Engine, engine_name_of, open_engine
from .files import find_inputs, output_path, plan_partitions, remove_leftovers
from .job import FORMATS, Job, JobError, Partition, PartitionResult, Progress, Report
from .manifest import check_manifest, make_manifest

if TYPE_CHECKING:
    from tinkex_sync import SamplingClient

__all__ = ["sample_dataset"]

#: Folder of the copy of a dataset that is not a file.
_INPUT = "_input"
#: Seconds between two calls of the user's progress function.
_PROGRESS_INTERVAL = 1.0


def sample_dataset(
    dataset: Any,
    sampler: SamplingClient,
    params: Optional[types.SamplingParams] = None,
    *,
    output: Union[str, Path],
    engine: Optional[str] = None,
    workers: int = 2,
    cluster: Any = None,
    num_samples: int = 1,
    prompt_column: str = "prompt",
    id_column: str = "id",
    file_format: Optional[str] = None,
    rows_per_partition: int = 1000,
    max_in_flight: int = 256,
    on_error: str = "raise",
    timeout: Optional[float] = None,
    tokenizer: Optional[str] = None,
    logprobs: bool = False,
    model: Optional[str] = None,
    progress: Optional[Callable[[Progress], None]] = None,
) -> Report:
    """Sample every row of a dataset on a cluster, and write one output file for each partition of the input.

    If it is interrupted, call it again with the same arguments: committed partitions are skipped.

    Args:
        dataset: A ``.parquet`` or ``.jsonl`` file, a folder of them or a list of paths, which all workers can read. Or
            a Dask DataFrame, a Ray dataset or a Spark DataFrame, whose rows are first copied to the output folder.
        sampler: The sampling client. Every worker process gets one copy by pickle. Workers need TINKER_API_KEY in
            their environment, or the client needs ``Config(pickle_credentials=True)``.
        params: Default: ``SamplingParams()``.
        output: Folder of the output, on a file system that all workers share.
        engine: "dask", "ray" or "spark". Default: the engine of the dataset.
        workers: Worker processes, if the job starts a cluster on this machine. For Ray: always.
        cluster: A ``distributed.Client``, the address of a Ray cluster, or a ``SparkSession``. Default: the current
            one of this process, or a new one on this machine.
        num_samples: Completions of each prompt.
        prompt_column: Column of the prompts: lists of token ids, or texts.
        id_column: Column that is copied to the column "id" of the output, if the input has it.
        file_format: "parquet" or "jsonl". Default: the format of the input.
        rows_per_partition: Rows that one task samples and one output file answers.
        max_in_flight: Most samples in flight in the whole job. Each concurrent task gets an equal part.
        on_error: "raise": the first failed row ends the job. "record": the output has the error in place of the
            completions.
        timeout: Seconds for each sample.
        tokenizer: Identifier or path of the tokenizer. Default: the tokenizer of the model, if there are texts.
        logprobs: Write the log probability of each sampled token too.
        model: Name of the model in the record of the job. Default: the base model of the sampling client.
        progress: Called about once per second, in a thread of its own, and at the end.

    Returns:
        The numbers of the job.

    Raises:
        ValueError: An argument is invalid.
        JobError: The input cannot be read, the folder belongs to another job, or the engine is not installed.
        Exception: The engine's error for a task that failed.
    """
    _check_arguments(file_format, on_error, rows_per_partition, max_in_flight, workers, num_samples)
    name = engine_name_of(dataset, engine)
    started = time.monotonic()
    folder = Path(output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = find_inputs(_as_paths(dataset, ENGINES[name][0], folder))
    inputs, partitions = plan_partitions(files, rows_per_partition)
    given = types.SamplingParams() if params is None else params
    job = Job(
        output=str(folder),
        file_format=file_format or files[0].suffix[1:],
        sampler=pickle.dumps(sampler),
        session_id=sampler.source.session_id,
        params={one: getattr(given, one) for one in _PARAMS},
        num_samples=num_samples,
        prompt_column=prompt_column,
        id_column=id_column,
        on_error="yield" if on_error == "record" else on_error,
        timeout=timeout,
        tokenizer=tokenizer,
        logprobs=logprobs,
        share=max_in_flight,
    )
    settings = {
        "model": model or sampler.get_base_model(),
        "rows_per_partition": rows_per_partition,
        **{one: getattr(job, one) for one in _RECORDED},
    }
    check_manifest(folder, make_manifest(inputs, partitions, settings))
    return _Run(job, partitions, progress, started).run(lambda: open_engine(name, workers, cluster))


_PARAMS = tuple(one.name for one in fields(types.SamplingParams))
#: Facts of a job that determine its output.
_RECORDED = ("file_format", "params", "num_samples", "prompt_column", "id_column", "tokenizer", "logprobs")


def _check_arguments(file_format: Optional[str], on_error: str, *counts: int) -> None:
    if file_format is not None and file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    if on_error not in ("raise", "record"):
        raise ValueError(f"on_error must be 'raise' or 'record', got {on_error!r}")
    names = ("rows_per_partition", "max_in_flight", "workers", "num_samples")
    for name, value in zip(names, counts):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def _as_paths(dataset: Any, engine: Type[Engine], folder: Path) -> Any:
    """Return paths as they are, and copy any other dataset to the output folder, once.

    The rows of a dataset of an engine need not have the same order in the next run, or after a worker was killed. The
    copy has.
    """
    if isinstance(dataset, (str, Path, list, tuple)):
        return dataset
    copy = folder / _INPUT
    if not copy.exists():
        temporary = folder / f"{_INPUT}.{uuid.uuid4().hex}.tmp"
        engine.write_input(dataset, temporary)
        temporary.replace(copy)
        return copy
    rows = sum(one.rows for one in plan_partitions(find_inputs(copy), 1_000_000)[0])
    found = engine.count(dataset)
    if rows != found:
        raise JobError(f"{copy} has {rows} rows of an earlier run, the dataset has {found}: give another output folder")
    return copy


class _Run:
    """One run of a job in the driver."""

    def __init__(
        self, job: Job, partitions: Sequence[Partition], progress: Optional[Callable[[Progress], None]], started: float
    ) -> None:
        self._job = job
        self._partitions = partitions
        self._progress = progress
        self._started = started
        self._rows = sum(one.rows for one in partitions)
        self._ended = threading.Event()

    def run(self, open_cluster: Callable[[], Engine]) -> Report:
        """Sample the partitions that are not committed. If there is none, no cluster is opened.

        Raises:
            JobError: A partition has no output at the end.
        """
        waiting = self._uncommitted(self._partitions)
        results: List[PartitionResult] = []
        if waiting:
            engine = open_cluster()
            try:
                results += self._sample(engine, waiting)
            finally:
                engine.close()
        missing = self._uncommitted(self._partitions)
        if missing:
            raise JobError(f"{len(missing)} partitions have no output, such as {missing[0].stem}: run the job again")
        remove_leftovers(Path(self._job.output))
        self._report_progress([])
        return Report(
            rows=self._rows,
            partitions=len(self._partitions),
            partitions_skipped=len(self._partitions) - len(waiting),
            rows_sampled=sum(one.rows for one in waiting),
            rows_failed=sum(one.failed for one in results),
            seconds=round(time.monotonic() - self._started, 3),
            waited=round(sum(one.waited for one in results), 3),
            processes=len({one.process for one in results}),
            output=self._job.output,
        )

    def _sample(self, engine: Engine, waiting: Sequence[Partition]) -> List[PartitionResult]:
        budget = self._job.share
        if engine.slots > budget:
            raise ValueError(f"max_in_flight must be at least the {engine.slots} concurrent tasks, got {budget}")
        watcher = threading.Thread(target=self._watch, name="tinkex-scale-progress", daemon=True)
        watcher.start()
        try:
            return list(engine.run(replace(self._job, share=budget // engine.slots), waiting))
        finally:
            self._ended.set()
            watcher.join()

    def _uncommitted(self, partitions: Sequence[Partition]) -> List[Partition]:
        job = self._job
        return [one for one in partitions if not output_path(job.output, job.file_format, one).exists()]

    def _watch(self) -> None:
        """Report progress from the files in the output folder, which are the same for all engines."""
        waiting = list(self._partitions)
        while not self._ended.wait(_PROGRESS_INTERVAL):
            waiting = self._uncommitted(waiting)
            self._report_progress(waiting)

    def _report_progress(self, waiting: Sequence[Partition]) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    partitions=len(self._partitions),
                    partitions_done=len(self._partitions) - len(waiting),
                    rows=self._rows,
                    rows_done=self._rows - sum(one.rows for one in waiting),
                    elapsed=round(time.monotonic() - self._started, 3),
                )
            )
