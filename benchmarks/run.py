"""Measure speed, memory and scale beside the official SDKs and bare HTTP, and write docs/performance.md.

    python benchmarks/run.py                        # everything, about 30 minutes
    python benchmarks/run.py --part samples         # one part; the page keeps the recorded results of the others
    python benchmarks/run.py --page                 # write the page again from benchmarks/results.json
    python benchmarks/run.py --python 0.7.0=PYTHON  # use an environment that has tinker==0.7.0

The first run makes virtual environments in benchmarks/.environments: tinkex_sync and its dependencies, tinker==0.7.0
(which installs torch) and tinker==0.38.0. It needs Linux and the command openssl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from pathlib import Path

from speed.environments import TREE, Environments
from speed.jobs import FULL, PARTS, SDKS, SIZES
from speed.page import write_page

RESULTS = Path(__file__).resolve().parent / "results.json"
DEFAULT_FOLDER = Path(__file__).resolve().parent / ".environments"


def describe_machine() -> str:
    """Describe the machine without its names and paths."""
    cpus, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpus} processors ({platform.machine()}), {memory:.0f} GiB of memory, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all parts")
    parser.add_argument("--repeat", type=int, help="repetitions; default: 5, 3 for tls, 1 for scale and backpressure")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no repetition of a part after this time")
    parser.add_argument("--full", action="store_true", help="the largest sizes, which take hours")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--python", action="append", default=[], metavar="CLIENT=PYTHON", help="ours, 0.7.0, 0.38.0")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.page:
        given = dict(one.split("=", 1) for one in args.python)
        environments = Environments(DEFAULT_FOLDER, given, list(SDKS))
        sizes = FULL if args.full else SIZES
        for name in args.part or PARTS:
            part, begun, load = PARTS[name], time.monotonic(), os.getloadavg()[0]
            if args.repeat:
                part = part._replace(repetitions=args.repeat)
            runs = environments.run_all(part.list_jobs(sizes), part, lambda line: print(line, flush=True), args.minutes)
            results[name] = {
                "date": datetime.date.today().isoformat(),
                "machine": describe_machine(),
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
                "seconds": round(time.monotonic() - begun),
                "versions": environments.versions(),
                "runs": [
                    {key: round(value, 5) if isinstance(value, float) else value for key, value in run.items()}
                    for run in runs
                ],
            }
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_page(results, TREE / "docs")


if __name__ == "__main__":
    main()
