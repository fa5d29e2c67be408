"""The engines: each runs one task for each partition on its workers, and repeats tasks of killed workers."""

from __future__ import annotations

import importlib
import json
import os
import sys
import uuid
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple, Type

from .job import Job, JobError, Partition, PartitionResult
from .worker import sample_partition

__all__ = ["ENGINES", "Engine", "engine_name_of", "open_engine"]


class Engine:
    """A cluster: the user's, or one on this machine that lives as long as the job. Used by one thread.

    Args:
        workers: Number of worker processes, if the engine starts its own cluster.
        cluster: The user's cluster, or None.
    """

    #: Number of tasks that run at the same time.
    slots: int

    def __init__(self, workers: int, cluster: Any) -> None:
        raise NotImplementedError

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[PartitionResult]:
        """Yield the result of every partition, in any order.

        Raises:
            Exception: A task failed more often than the engine repeats it.
        """
        raise NotImplementedError

    @staticmethod
    def write_input(dataset: Any, folder: Path) -> None:
        """Write a dataset of the engine as Parquet files."""
        raise NotImplementedError

    @staticmethod
    def count(dataset: Any) -> int:
        """Return the number of rows of a dataset of the engine."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the cluster, if this object started it."""


def _write_frame(frame: Any, folder: str, number: int) -> None:
    """Write a pandas data frame as one Parquet file. A repeated task replaces the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder, f"part.{number}.parquet")
    temporary = path.with_name(f"_part.{number}.{uuid.uuid4().hex}.tmp")
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), temporary)
    temporary.replace(path)


class DaskEngine(Engine):
    """Dask: a ``distributed.Client``, the current one, or a ``LocalCluster``."""

    def __init__(self, workers: int, cluster: Any) -> None:
        distributed = importlib.import_module("distributed")
        self._distributed = distributed
        self._own: Any = None
        if cluster is None:
            try:
                cluster = distributed.get_client()
            except ValueError:
                self._own = distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0
                )
                cluster = distributed.Client(self._own)
        self._client = cluster
        self.slots = sum(self._client.nthreads().values()) or workers

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[PartitionResult]:
        # pure=False: the result is the file, not the value that Dask would keep for the same arguments.
        tasks = self._client.map(partial(sample_partition, job), list(partitions), pure=False)
        try:
            for _, result in self._distributed.as_completed(tasks, with_results=True):
                yield result
        finally:
            self._client.cancel(tasks)

    @staticmethod
    def write_input(dataset: Any, folder: Path) -> None:
        # Not to_parquet: Dask cannot infer the type of a column of lists.
        folder.mkdir()
        delayed = importlib.import_module("dask").delayed(_write_frame)
        parts = enumerate(dataset.to_delayed())
        importlib.import_module("dask").compute(*(delayed(part, str(folder), number) for number, part in parts))

    @staticmethod
    def count(dataset: Any) -> int:
        return len(dataset)

    def close(self) -> None:
        if self._own is not None:
            self._client.close()
            self._own.close()


class _RayActor:
    """A worker process of Ray. Its batches have one partition each."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, batch: Dict[str, Any]) -> Dict[str, Any]:
        specs = [Partition(**json.loads(str(one))) for one in batch["partition"]]
        return {"result": [json.dumps(asdict(sample_partition(self._job, one))) for one in specs]}


class RayEngine(Engine):
    """Ray Data: the running cluster, or one on this machine. One actor is one worker process."""

    def __init__(self, workers: int, cluster: Any) -> None:
        ray = importlib.import_module("ray")
        self._ray = ray
        self._data = importlib.import_module("ray.data")
        self._is_own = not ray.is_initialized()
        if self._is_own:
            # One more processor, so that reading and collecting never wait for the actors.
            ray.init(address=cluster, include_dashboard=False, **({} if cluster else {"num_cpus": workers + 1}))
        self.slots = workers

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[PartitionResult]:
        specs = [{"partition": json.dumps(asdict(one))} for one in partitions]
        dataset = self._data.from_items(specs, override_num_blocks=len(specs)).map_batches(
            _RayActor, fn_constructor_args=(job,), batch_size=1, concurrency=min(self.slots, len(specs)), num_cpus=1
        )
        for row in dataset.iter_rows():
            yield PartitionResult(**json.loads(row["result"]))

    @staticmethod
    def write_input(dataset: Any, folder: Path) -> None:
        dataset.write_parquet(str(folder))

    @staticmethod
    def count(dataset: Any) -> int:
        count: int = dataset.count()
        return count

    def close(self) -> None:
        if self._is_own:
            self._ray.shutdown()


def _sample_frames(job: Job, frames: Iterator[Any]) -> Iterator[Any]:
    """Sample the partitions in pandas data frames, for ``mapInPandas``."""
    pandas = importlib.import_module("pandas")
    for frame in frames:
        specs = [Partition(**json.loads(one)) for one in frame["partition"]]
        yield pandas.DataFrame({"result": [json.dumps(asdict(sample_partition(job, one))) for one in specs]})


class SparkEngine(Engine):
    """Spark: the user's session, the active one, or one on this machine that repeats tasks of killed workers."""

    def __init__(self, workers: int, cluster: Any) -> None:
        session_class = importlib.import_module("pyspark.sql").SparkSession
        active = cluster or session_class.getActiveSession()
        self._is_own = active is None
        if self._is_own:
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
            # local[N] alone does not repeat a failed task; the second number is the largest number of attempts.
            local = session_class.builder.master(f"local[{workers},4]").config("spark.ui.enabled", "false")
            active = local.getOrCreate()
        self._session = active
        self.slots = int(self._session.sparkContext.defaultParallelism)

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[PartitionResult]:
        context = self._session.sparkContext
        # One Spark partition for each of ours, so that a repeated task repeats one.
        specs = context.parallelize([(json.dumps(asdict(one)),) for one in partitions], len(partitions))
        frame = self._session.createDataFrame(specs, "partition string")
        for row in frame.mapInPandas(partial(_sample_frames, job), "result string").collect():
            yield PartitionResult(**json.loads(row["result"]))

    @staticmethod
    def write_input(dataset: Any, folder: Path) -> None:
        dataset.write.mode("overwrite").parquet(str(folder))

    @staticmethod
    def count(dataset: Any) -> int:
        return int(dataset.count())

    def close(self) -> None:
        if self._is_own:
            self._session.stop()


#: Each engine with the module that it needs.
ENGINES: Dict[str, Tuple[Type[Engine], Tuple[str, ...]]] = {
    "dask": (DaskEngine, ("distributed",)),
    "ray": (RayEngine, ("ray", "ray.data")),
    "spark": (SparkEngine, ("pyspark", "pandas")),
}

#: Packages of the classes of datasets.
_PACKAGES = {"dask": "dask", "dask_expr": "dask", "ray": "ray", "pyspark": "spark"}


def engine_name_of(dataset: Any, engine: Optional[str]) -> str:
    """Return the engine that was named, or the engine of a dataset.

    Raises:
        ValueError: There is no such engine, or a path was given without an engine.
    """
    found = _PACKAGES.get(type(dataset).__module__.partition(".")[0])
    name = engine or found
    if name is None:
        raise ValueError(f"engine must be given for a path: one of {', '.join(ENGINES)}")
    if name not in ENGINES or (found is not None and name != found):
        expected = found or ", ".join(ENGINES)
        raise ValueError(f"engine must be one of {expected} for this dataset, got {name!r}")
    return name


def open_engine(name: str, workers: int, cluster: Any) -> Engine:
    """Connect to the cluster, or start one.

    Raises:
        JobError: The engine is not installed.
    """
    engine, modules = ENGINES[name]
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise JobError(f'the engine {name} needs {", ".join(missing)}: pip install "tinkex-sync-scale[{name}]"')
    return engine(workers, cluster)


def _is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
