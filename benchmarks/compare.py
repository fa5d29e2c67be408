"""Compare the speed of this tree with that of a base revision in a few minutes.

    python benchmarks/compare.py main
    python benchmarks/compare.py HEAD~1 --repeat 7

Each figure is the ratio of the tree to the base, measured alternately in one environment: the median and the spread.
A ratio below 1 means less CPU time, wall time or memory. A difference within the spread is noise.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

from speed.environments import TREE, Environments
from speed.jobs import OURS, Job
from speed.results import spread

_FIGURES = ("cpu", "wall", "growth")


def jobs(count: int = 1000) -> List[Job]:
    """Return the measurements, for a number of samples and of datums."""
    training = {"datums": count // 2, "tokens": 1000}
    encodings = [("protobuf", "0.38"), ("JSON", "0.7")]
    return [
        Job(f"{count} samples at once", OURS, "samples", {"count": count}),
        Job(f"{count} samples, results after 200 ms", OURS, "samples", {"count": count, "latency": 0.2}),
        Job("one caller", OURS, "loop", {"count": count // 4}),
        Job("one caller, TLS", OURS, "loop", {"count": count // 4, "tls": True}),
        *(
            Job(f"{count // 2} datums of {'arrays' if arrays else 'lists'}, {encoding}", OURS, "training",
                {**training, "arrays": arrays}, (("TINKEX_SYNC_PROTOCOL", protocol),))
            for encoding, protocol in encodings
            for arrays in (False, True)
        ),
        Job("import", OURS, "imports", {}),
    ]  # fmt: skip


def compare(environments: Environments, base: Path, repeat: int, chosen: List[Job]) -> None:
    """Print the ratios of this tree to the one in ``base``."""
    found: Dict[Tuple[str, str], List[float]] = {}
    for number in range(repeat):
        for job in chosen:
            trees = (TREE, base) if number % 2 else (base, TREE)
            figures = {tree: environments.run(job, tree) for tree in trees}
            for one in figures.values():
                if "error" in one:
                    raise SystemExit(f"{job.row}: {one['error']}")
            for name in _FIGURES:
                if figures[base].get(name):
                    found.setdefault((job.row, name), []).append(figures[TREE][name] / figures[base][name])
    for job in chosen:
        texts = [f"{name} {spread(found[job.row, name])}" for name in _FIGURES if (job.row, name) in found]
        print(f"{job.row}: {', '.join(texts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a revision of git")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--python", help="a Python with the dependencies; default: an environment that is made here")
    parser.add_argument("--count", type=int, default=1000, help="samples of a measurement")
    args = parser.parse_args()
    given = {OURS: args.python} if args.python else {}
    environments = Environments(Path(__file__).resolve().parent / ".environments", given, [OURS])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        git = ["git", "-C", str(TREE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(base), args.base], check=True)
        try:
            compare(environments, base, args.repeat, jobs(args.count))
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)


if __name__ == "__main__":
    main()
