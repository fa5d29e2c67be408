"""A driver of jobs for the tests: ``python cluster_driver.py JSON``. It prints the report as the last line.

The JSON has the arguments of ``sample_dataset`` and, as "native", whether the input becomes a dataset of the engine.
The server is that of TINKER_BASE_URL.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any, Dict

from tinkex_sync_scale import Progress, sample_dataset

from tinkex_sync import ServiceClient, types


def native_dataset(engine: str, path: str) -> Any:
    """Return the dataset of an engine for a Parquet file."""
    if engine == "dask":
        import dask.dataframe

        return dask.dataframe.read_parquet(path, split_row_groups=True)
    if engine == "ray":
        import ray

        ray.init(num_cpus=3, include_dashboard=False)
        return ray.data.read_parquet(path)
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false").getOrCreate()
    return session.read.parquet(path)


def show(progress: Progress) -> None:
    print(json.dumps(asdict(progress)), flush=True)


def main() -> None:
    arguments: Dict[str, Any] = json.loads(sys.argv[1])
    dataset, max_tokens = arguments.pop("dataset"), arguments.pop("max_tokens", 1)
    if arguments.pop("native", False):
        dataset = native_dataset(arguments["engine"], dataset)
    with ServiceClient() as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        params = types.SamplingParams(max_tokens=max_tokens)
        report = sample_dataset(dataset, sampler, params, progress=show, **arguments)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":  # the workers of Dask import this module
    main()
