"""The page docs/performance.md and its plots, written from the recorded results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from .goals import goal_rows
from .jobs import NEW, OLD, OURS
from .plot import bars, plot
from .results import Run, figure, number, ratio

_NAMES = {OURS: "tinkex_sync", OLD: "tinker 0.7.0", NEW: "tinker 0.38.0"}
#: The tables of parts whose rows and clients are shown as they are: title, text, and figures by heading.
_PLAIN: Dict[str, Tuple[str, str, Dict[str, str]]] = {
    "samples": (
        "Samples",
        "Prompts have 512 tokens and samples 64. A sample is two requests. The numbers after `adapter` (the adapter of"
        " `requests`, with requests prepared by hand) and `urllib3` are their threads.",
        {
            "cpu_ms": "CPU, ms per sample",
            "rate": "samples/s",
            "wall": "seconds",
            "growth": "growth of memory, MiB",
            "threads": "threads",
            "connections": "connections",
        },
    ),
    "training": (
        "Training",
        "One `forward_backward` of datums x tokens. CPU includes making the datums. Lists are Python lists, arrays are"
        " numpy arrays (int64 targets, float32 weights). `orjson` encodes plain dicts, sends them with urllib3, and"
        " decodes the results.",
        {"cpu": "CPU, s", "wall": "seconds", "growth": "growth of memory, MiB", "requests": "requests"},
    ),
    "import": (
        "Import",
        "`from tinkex_sync import ServiceClient, types` in a new process. The dependencies are `requests`, `pluggy`,"
        " `tenacity`, `dataclasses_json` and `orjson`.",
        {"cpu": "CPU, s", "wall": "seconds", "rss": "memory, MiB"},
    ),
    "size": (
        "Installed size",
        "The disk space of the files of the distribution and of all distributions that it requires, with bytecode.",
        {"size": "MiB", "distributions": "distributions", "largest": "the largest, MiB"},
    ),
    "tls": (
        "TLS",
        "The same work over plain HTTP and over TLS, with a local certificate. The server counts connections, each of"
        " which is one handshake over TLS, and resumed sessions. It serves HTTP/1.1.",
        {
            "cpu_ms": "CPU, ms per sample",
            "wall": "seconds",
            "growth": "growth of memory, MiB",
            "connections": "connections",
            "most_open": "open at most",
            "resumed": "resumed sessions",
        },
    ),
}
_INTRODUCTION = """# Performance

This page compares tinkex_sync with both official SDKs and with bare HTTP requests, against a server on the same
machine. `python benchmarks/run.py` measures everything and writes this page. `tox -e speed` does the same.

```sh
python benchmarks/run.py --part samples
python benchmarks/compare.py main
```

The first command measures one part and keeps the recorded results of the others. The second one compares the working
tree with a base revision in less than five minutes, and prints ratios with their spread.

## How to read the figures

- Each measurement runs in a process of its own, and so does the server (`benchmarks/speed/stub.py`). CPU time and
  memory are those of the client's process.
- A figure is the median of all repetitions, followed by the least and the greatest in parentheses.
- All clients are measured in turn within each repetition. A ratio is computed within a repetition, so that both sides
  experience the same load. Ratios of CPU time are the steadiest figures. Wall time depends on other
  programs.
- "Growth of memory" is the peak of the resident memory minus its value before the work.
- tinkex_sync is called through `tinkex_sync.compat`, without plugins. The rows about scale call the native clients.
- The network is the loopback interface. A real network adds its latency to every client.
"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' if index < 1 else '---:' for index in range(len(heads)))} |",
    ]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _unique(values: Iterable[str]) -> List[str]:
    return list(dict.fromkeys(values))


def _cell(runs: List[Run], row: str, client: str, name: str) -> str:
    texts = [
        run[name] for run in runs if run["row"] == row and run["client"] == client and isinstance(run.get(name), str)
    ]
    return texts[0] if texts else str(figure(runs, row, client, name) or "-")


def _name(client: str) -> str:
    first, _, rest = client.partition(" ")
    return " ".join([_NAMES.get(first, first), rest]).strip()


def _plain_section(part: str, recorded: Dict[str, Any]) -> str:
    title, text, figures = _PLAIN[part]
    runs = recorded["runs"]
    parts = [f"## {title}", text, _when(recorded)]
    basis = "cpu" if part != "size" else "size"
    for row in _unique(run["row"] for run in runs):
        clients = _unique(run["client"] for run in runs if run["row"] == row)
        rows = []
        for client in clients:
            cells = [_cell(runs, row, client, name) for name in figures]
            against = ratio(runs, row, basis, [client, clients[0]])
            rows.append([_name(client), *cells, "1" if client == clients[0] else str(against or "-")])
        head = f"{'size' if basis == 'size' else 'CPU'}, x {_name(clients[0])}"
        parts.append(f"### {row}" if part in ("samples", "training", "tls") else "")
        parts.append(_table(["client", *figures.values(), head], rows))
    errors = _unique(f"{run['client']}, {run['row']}: {run['error']}" for run in runs if "error" in run)
    parts += ["Not measured:\n\n" + "\n".join(f"- {_name(line)}" for line in errors)] if errors else []
    return "\n\n".join(filter(None, parts))


def _when(recorded: Dict[str, Any]) -> str:
    repetitions = 1 + max(run["repetition"] for run in recorded["runs"])
    before, after = recorded["load"]
    return (
        f"Recorded on {recorded['date']}, {repetitions} repetition{'s' if repetitions > 1 else ''} in"
        f" {recorded['seconds']} s; load average {before} before and {after} after."
    )


def _sized(runs: List[Run], prefix: str, name: str) -> List[Tuple[float, float]]:
    """Return ``(size, figure)`` of the rows whose names are ``prefix`` and a size."""
    points = []
    for row in _unique(run["row"] for run in runs):
        value = figure(runs, row, OURS, name)
        if row.startswith(prefix + " ") and row[len(prefix) + 1 :].isdigit() and value:
            points.append((float(row[len(prefix) + 1 :]), value.median))
    return points


def _scale_table(runs: List[Run], prefixes: Sequence[str], figures: Dict[str, str]) -> str:
    rows = [
        [f"{run['row'].rsplit(' ', 1)[0]}, {int(run['row'].rsplit(' ', 1)[1]):,}"]
        + [_cell(runs, run["row"], OURS, name) for name in figures]
        for run in runs
        if run["row"].rsplit(" ", 1)[0] in prefixes and run["repetition"] == 0
    ]
    return _table(["work", *figures.values()], rows)


def _scale_section(recorded: Dict[str, Any], folder: Path) -> str:
    runs = recorded["runs"]
    per_sample = {"cpu_ms": "CPU, ms per sample", "rate": "samples/s", "growth": "growth of memory, MiB"}
    both = {"sample_many": "sample_many", "64 threads": "64 threads"}
    cpu = {name: _sized(runs, prefix, "cpu_ms") for prefix, name in both.items()}
    growth = {name: _sized(runs, prefix, "growth") for prefix, name in both.items()}
    _save(folder, "many_cpu", plot("CPU per sample", ("samples", "ms"), cpu))
    _save(folder, "many_memory", plot("Growth of memory", ("samples", "MiB"), growth))
    planned = {"plan": _sized(runs, "plan", "seconds_per_million")}
    _save(folder, "plan", plot("Planning chunks: CPU per million datums", ("datums", "s"), planned))
    rates = {"samples/s": _sized(runs, "callers", "rate")}
    _save(folder, "callers", plot("Concurrent callers", ("callers", "samples/s"), rates))
    polls = {"growth": "growth of memory, MiB", "threads": "threads", "most_outstanding": "samples outstanding at most",
             "cpu_ms": "CPU, ms per sample", "wall": "seconds"}  # fmt: skip
    waiting = [[_name(client), *(_cell(runs, "polls", client, name) for name in polls)] for client in (OURS, OLD, NEW)]
    waiting.append(["tinkex_sync, greenlets of gevent", *(_cell(runs, "gevent", OURS, name) for name in polls)])
    beats = {"wall": "seconds of the pass", "heartbeats": "heartbeats", "busy_p50_ms": "late by, p50 ms",
             "busy_p99_ms": "late by, p99 ms", "idle_p99_ms": "idle client: p99 ms"}  # fmt: skip
    late = [
        [encoding, *(_cell(runs, f"heartbeats {encoding}", OURS, name) for name in beats)]
        for encoding in ("protobuf", "JSON")
    ]
    return "\n\n".join([
        "## Scale",
        _when(recorded),
        "Short prompts (4 tokens) and samples, without latency. The last column is the memory that the second half of"
        " the samples adds, from the resident memory after the first half.",
        _scale_table(runs, list(both), {**per_sample, "half": "second half adds, MiB"}),
        "![CPU per sample over the number of samples](performance_many_cpu.svg)",
        "![Growth of memory over the number of samples](performance_many_memory.svg)",
        "### Planning of chunks",
        "Datums of 100 tokens are produced one by one and divided into chunks. Growth stays near zero because the plan"
        " copies no data.",
        _scale_table(runs, ["plan"], {"seconds_per_million": "CPU, s per million", "growth": "growth of memory, MiB",
                                      "chunks": "chunks"}),
        "![Planning chunks](performance_plan.svg)",
        "### Concurrent callers",
        "Each caller is a thread that waits for its sample before it submits the next one.",
        _scale_table(runs, ["callers"], {**per_sample, "threads": "threads", "connections": "connections"}),
        "![Samples per second over the number of callers](performance_callers.svg)",
        "### Outstanding long polls",
        "2,000 samples whose results take 8 seconds, and 5,000 greenlets that each wait for one.",
        _table(["client", *polls.values()], waiting),
        "### Heartbeats while a large batch is encoded",
        "The client sends a heartbeat every 20 ms while it encodes and sends 50 MB of arrays. A heartbeat is late by"
        " the time between two of them on the server, minus 20 ms.",
        _table(["encoding", *beats.values()], late),
    ])  # fmt: skip


def _backpressure_section(recorded: Dict[str, Any], folder: Path) -> str:
    runs = recorded["runs"]
    rows, series = [], {_NAMES[client]: [] for client in (OURS, OLD, NEW)}  # type: ignore[var-annotated]
    for index, row in enumerate(_unique(run["row"] for run in runs)):
        cells = []
        for client in (OURS, OLD, NEW):
            over = figure(runs, row, client, "over")
            errors = [run["error"] for run in runs if run["row"] == row and run["client"] == client and "error" in run]
            cells.append(number(over.median) if over else errors[0])
            if over:
                series[_NAMES[client]].append((index + 1.0, over.median))
        rows.append([str(index + 1), *row.split(" "), *cells])
    picture = plot("Back-pressure: multiple of the ideal time", ("task", "x ideal"), series, log="y", dots=True)
    _save(folder, "backpressure", picture)
    names = [_NAMES[client] for client in (OURS, OLD, NEW)]
    heads = ["task", "rate/s", "depth", "response, ms", *(f"{name}, x ideal" for name in names)]
    return "\n\n".join([
        "## Back-pressure",
        "The server accepts samples by token bucket and returns 429 for all others, both after the response time."
        " The ideal client sends every sample when the bucket accepts it. All samples are submitted at once."
        " Clients wait most of the time, so six measurements run concurrently."
        " [Throttle](throttle.md) explains the rule.",
        _when(recorded),
        _table(heads, rows),
        "![Multiple of the ideal time by task](performance_backpressure.svg)",
    ])  # fmt: skip


def _sample_plots(runs: List[Run], folder: Path) -> str:
    """Save the bars of the first two rows; return their place on the page."""
    texts = []
    for row, name, title in zip(
        _unique(run["row"] for run in runs), ("cpu_ms", "wall"), ("CPU, ms per sample", "seconds")
    ):
        values = []
        for client in _unique(run["client"] for run in runs if run["row"] == row):
            value = figure(runs, row, client, name)
            if value:
                values.append((_name(client), value.median))
        if values:
            _save(folder, name, bars(f"{row}: {title}", values))
            texts.append(f"![{row}: {title}](performance_{name}.svg)")
    return "\n\n".join(texts)


def _save(folder: Path, name: str, svg: str) -> None:
    (folder / f"performance_{name}.svg").write_text(svg)


def write_page(results: Dict[str, Any], folder: Path) -> None:
    """Write performance.md and its plots into ``folder``, from the parts that are recorded."""
    latest = list(results.values())[-1]
    versions = [f"- {_name(client)}: {text}" for client, text in latest["versions"].items()]
    goals = goal_rows(results)
    parts = [_INTRODUCTION.strip(), "## Machine and versions", f"{latest['machine']}.", "\n".join(versions)]
    if goals:
        parts += ["## Goals", _table(["work", "figure", "goal", "measured", "holds"], goals)]
    notes = folder.parent / "benchmarks" / "notes.md"
    if notes.exists():
        parts.append(notes.read_text().strip())
    for part in _PLAIN:
        if part in results:
            parts.append(_plain_section(part, results[part]))
            if part == "samples":
                parts.append(_sample_plots(results[part]["runs"], folder))
    if "scale" in results:
        parts.append(_scale_section(results["scale"], folder))
    if "backpressure" in results:
        parts.append(_backpressure_section(results["backpressure"], folder))
    (folder / "performance.md").write_text("\n\n".join(part for part in parts if part) + "\n")
