"""Measure jobs of many rows: ``python measure.py ENGINE [ROWS] [WORKERS] [RATE]``, in an environment with the engine.

The server is benchmarks/token_bucket_stub.py. It accepts RATE samples per second; without RATE it accepts all. One
worker process is killed with SIGKILL in mid-run. Then the job is run again. The result is a row of the table in
docs/scale_out.md.
"""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

from tinkex_sync_scale import sample_dataset

from tinkex_sync import ServiceClient, types

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

ROWS_PER_PARTITION = 1000


def write_prompts(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = [{"prompt": [number % 250 + 1] * 16, "id": number} for number in range(rows)]
    pq.write_table(pa.Table.from_pylist(prompts), path, row_group_size=10_000)


def kill_one_worker(folder: Path, partitions: int, ended: threading.Event) -> Optional[int]:
    """Kill a process that samples a partition, when a quarter of the partitions is committed."""
    while not ended.wait(0.05):
        working = [re.search(r"-(\d+)\.\w+\.tmp$", path.name) for path in folder.glob("_part-*.tmp")]
        if working and working[0] and len(list(folder.glob("part-*"))) >= partitions // 4:
            found = int(working[0].group(1))
            os.kill(found, signal.SIGKILL)
            return found
    return None


def count_ids(folder: Path, rows: int) -> Tuple[int, int]:
    """Return the number of rows that are missing and of those that are there more than once."""
    import pyarrow.parquet as pq

    found: collections.Counter[int] = collections.Counter()
    for path in folder.glob("part-*.parquet"):
        found.update(pq.read_table(path, columns=["id"])["id"].to_pylist())
    return rows - len(found), sum(count - 1 for count in found.values())


def main() -> None:
    from token_bucket_stub import TokenBucketServer  # type: ignore[import-not-found]

    engine, given = sys.argv[1], [int(one) for one in sys.argv[2:]]
    rows, workers, rate = [*given, *(100_000, 2, 0)[len(given) :]]
    with tempfile.TemporaryDirectory() as name, TokenBucketServer() as server:
        if rate:
            server.set(rate=rate, bucket=rate)
        folder = Path(name)
        write_prompts(folder / "prompts.parquet", rows)
        killed: List[Optional[int]] = []
        ended = threading.Event()
        arguments = (folder / "out", rows // ROWS_PER_PARTITION, ended)
        killer = threading.Thread(target=lambda: killed.append(kill_one_worker(*arguments)), daemon=True)
        os.environ["TINKER_API_KEY"] = "local"
        with ServiceClient(base_url=f"http://127.0.0.1:{server.port}", protocol="0.7") as service:
            sampler = service.create_sampling_client(base_model="stub")

            def run() -> Any:
                return sample_dataset(
                    folder / "prompts.parquet",
                    sampler,
                    types.SamplingParams(max_tokens=1),
                    output=folder / "out",
                    engine=engine,
                    workers=workers,
                    rows_per_partition=ROWS_PER_PARTITION,
                    model="stub",
                )

            started = time.monotonic()
            killer.start()
            first = run()
            seconds = time.monotonic() - started
            ended.set()
            killer.join()
            counts = server.counts()
            again = run()
            sampled_again = server.counts()["accepted"] - counts["accepted"]
        missing, duplicates = count_ids(folder / "out", rows)
    print(json.dumps({"killed": killed, "first": vars(first), "again": vars(again), "counts": counts}), file=sys.stderr)
    limit = f"{rate:,}" if rate else "none"
    extra, load = counts["accepted"] - rows, os.getloadavg()[0]
    times = (f"{seconds:.0f}", f"{rows / seconds:,.0f}", f"{again.seconds:.1f}")
    cells = (engine, workers, limit, *times, f"{extra:,}", f"{counts['refused']:,}", missing, duplicates, sampled_again)
    print("| " + " | ".join(map(str, (*cells, f"{load:.1f}"))) + " |")


if __name__ == "__main__":  # the workers of Dask import this module
    main()
