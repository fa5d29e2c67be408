"""The benchmark of speed runs: every part at a tiny size, the page, and the comparison of two trees."""

import functools
import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the meter reads /proc"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with"),
]


@pytest.fixture(scope="module")
def speed():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield lambda name: importlib.import_module(f"speed.{name}")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "speed"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def environments(speed, tmp_path_factory):
    return speed("environments").Environments(tmp_path_factory.mktemp("speed"), {"ours": sys.executable}, ["ours"])


def is_missing(job):
    needs = {"greenlets": "gevent", "heartbeats": "numpy"}.get(job.case)
    needs = "numpy" if job.settings.get("arrays") else needs
    return needs is not None and importlib.util.find_spec(needs) is None


PARTS = ["samples", "training", "import", "tls", "scale", "backpressure"]


@pytest.fixture(scope="module")
def run_part(speed, environments):
    """Run a part once, except what needs the official SDKs or a package that is not installed."""

    @functools.lru_cache
    def run(name):
        jobs = speed("jobs")
        part = jobs.PARTS[name]._replace(repetitions=1, concurrent=3)
        chosen = [job for job in part.list_jobs(jobs.TINY) if job.client not in (jobs.OLD, jobs.NEW)]
        return environments.run_all([job for job in chosen if not is_missing(job)], part, lambda line: None)

    return run


@pytest.mark.parametrize("name", PARTS)
def test_every_measurement_of_a_part_succeeds(run_part, name):
    runs = run_part(name)
    assert runs
    assert [run for run in runs if "error" in run] == []


def test_every_part_is_tested(speed):
    # The size is that of an installed distribution, which a tree is not.
    assert set(speed("jobs").PARTS) == {*PARTS, "size"}


def test_tls_sessions_are_counted_on_the_server(run_part):
    runs = {run["row"]: run for run in run_part("tls")}
    secure, plain = runs["20 samples at once, TLS"], runs["20 samples at once"]
    assert (plain["resumed"], plain["rejected"]) == (0, 0)
    assert secure["connections"] >= 1


def test_the_page_and_its_plots_are_written_from_results(speed, run_part, tmp_path):
    facts = {"date": "2026-01-31", "machine": "a machine", "load": [0, 1], "seconds": 2, "versions": {"ours": "Python"}}
    with_facts = {}
    for name in PARTS:
        runs = run_part(name)
        failed = [{**runs[0], "client": client, "error": "not installed"} for client in ("0.7.0", "0.38.0")]
        with_facts[name] = {**facts, "runs": runs + failed}
    speed("page").write_page(with_facts, tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| tinkex_sync | " in page
    assert "## Back-pressure" in page
    plots = sorted(tmp_path.glob("*.svg"))
    assert {f"]({path.name})" in page for path in plots} == {True}
    assert len(plots) == page.count("](performance_")
    for path in plots:
        ElementTree.parse(path)


def test_ratios_are_computed_within_a_repetition(speed):
    runs = [
        {"row": "work", "client": client, "repetition": number, "cpu": cpu}
        for number, (ours, other) in enumerate([(1.0, 2.0), (3.0, 9.0), (2.0, 8.0)])
        for client, cpu in (("ours", ours), ("other", other))
    ]
    spread = speed("results").ratio(runs, "work", "cpu", ["other", "ours"])
    assert (spread.median, spread.least, spread.most) == (3.0, 2.0, 4.0)
    assert str(spread) == "3 (2-4)"


def test_a_comparison_prints_ratios_with_their_spread(environments, capsys, tmp_path):
    compare = importlib.import_module("compare")
    jobs = [job for job in compare.jobs(20) if job.row == "one caller"]
    base = tmp_path / "base"
    base.symlink_to(ROOT)
    compare.compare(environments, base, 2, jobs)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [job.row for job in jobs]
    assert all("cpu " in line and "(" in line for line in lines)
