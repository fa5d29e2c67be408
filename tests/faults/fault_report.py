"""Run the fault bench or the soak; writes docs/reliability.md: ``python tests/faults/fault_report.py bench|soak|page``.

Each part keeps its results in docs/recorded/reliability.json, so that the parts can be run alone.
"""

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path

from fault_proxy import FaultProxy
from fault_soak import soak
from fault_table import FAULTS, MIX
from fault_workloads import expected, run_sample_many, run_samples_in_threads, run_training

from tinkex_sync.local import LocalServer

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/recorded/reliability.json"
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- recorded: written by tests/faults/fault_report.py -->\n", "<!-- end of recorded -->\n"
WORKLOADS = (run_samples_in_threads, run_sample_many, run_training)


def bench(samples, operations, names):
    """Return the rows of each fault: what each workload did under it."""
    found = {}
    with LocalServer() as server, FaultProxy(server.base_url) as proxy:
        right = expected(server.base_url, operations // 8)
        for name in [None, *names]:
            rows = []
            for run, count in zip(WORKLOADS, (samples, samples, operations)):
                rows.append(run(proxy, server, name, count, right)._asdict())
                print(name, rows[-1], flush=True)
            found[name or "none"] = rows
    return found


def keep(part, value):
    """Keep the results of one part, with the versions and the date."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    machine = f"Python {platform.python_version()}, {platform.system()}, {platform.machine()}"
    results[part] = {"date": date.today().isoformat(), "machine": machine, "found": value}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


# The page


def write_plot(name, text):
    """Write a plot beside the page."""
    (RESULTS.parent / f"reliability-{name}.svg").write_text(text, "utf-8")


def bench_section(kept, write=write_plot):
    """Return the table of the bench, in Markdown, and write its plot."""
    rows = kept["found"]
    every = [row for one in rows.values() for row in one]
    samples, training = (
        sum(row["operations"] for row in every if row["work"].startswith(work)) for work in ("samples", "training")
    )
    lost, doubled, hit = (sum(row[name] for row in every) for name in ("lost", "doubled", "hit"))
    left = sum(row["threads_left"] + row["sockets_left"] for row in every)
    lines = [
        f"Recorded on {kept['date']} ({kept['machine']}): {samples:,} samples and {training:,} training operations,"
        f" {hit:,} requests hit by a fault. **{lost} lost or wrong, {doubled} carried out twice, {left} threads or"
        " sockets left.** The machine had other work to do meanwhile, so the times are upper bounds.\n",
        "| fault | what happens | requests hit | lost | twice | left | memory (MiB) | time of the three workloads |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in rows.items():
        meaning = FAULTS[name].meaning if name in FAULTS else {"mix": "all of these", "none": "nothing"}[name]
        requests, hits = sum(row["requests"] for row in one), sum(row["hit"] for row in one)
        memory = max(0.0, *(row["memory"] for row in one))
        times = " / ".join(f"{row['seconds']:.0f} s" for row in one)
        lines.append(
            f"| {name.replace('_', ' ')} | {meaning} | {hits:,} of {requests:,} | {sum(row['lost'] for row in one)}"
            f" | {sum(row['doubled'] for row in one)} | {sum(row['threads_left'] + row['sockets_left'] for row in one)}"
            f" | {memory:.1f} | {times} |"
        )
    bars = [(name.replace("_", " "), sum(row["seconds"] for row in one)) for name, one in rows.items()]
    write("time", bar_chart("Seconds of all three workloads", bars))
    lines.append("\n![Seconds under each fault](recorded/reliability-time.svg)\n")
    return "\n".join(lines)


def soak_section(kept):
    """Return the summary of the soak, in Markdown."""
    found = kept["found"]
    rows = found["rows"]
    for name, column, title in (("memory", 1, "Memory in MiB"), ("sockets", 2, "Open descriptors")):
        points = [(row[0], row[column]) for row in rows]
        write_plot(name, line_chart(f"{title} over simulated hours", points))
    done = found["done"]
    return (
        f"Recorded on {kept['date']} ({kept['machine']}): {found['hours']:.0f} simulated hours with {done['samples']:,}"
        f" samples, {done['steps']:,} optimizer steps and {done['clients']:,} clients made and dropped. Memory grew by"
        f" **{found['slope']:.2f} MiB per simulated hour** in the second half; at most {max(row[2] for row in rows)}"
        f" descriptors and {max(row[3] for row in rows)} threads; {found['left']['threads']} threads afterwards.\n\n"
        "![Memory](recorded/reliability-memory.svg)\n\n![Open descriptors](recorded/reliability-sockets.svg)\n"
    )


STYLE = (
    "<style>text{font:12px sans-serif;fill:#333}.l{stroke:#2a6fb0;fill:none;stroke-width:1.5}.b{fill:#2a6fb0}"
    ".a{stroke:#999;stroke-width:1}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
)


def bar_chart(title, bars):
    """Return an SVG of horizontal bars, for pairs of a label and a value."""
    most, height = max(value for _, value in bars), 18
    parts = [f'<text x="4" y="14">{title}</text>']
    for number, (label, value) in enumerate(bars):
        y = 24 + number * height
        width = 420 * value / most
        parts.append(f'<text x="4" y="{y + 12}">{label}</text>')
        parts.append(f'<rect class="b" x="130" y="{y + 2}" width="{width:.1f}" height="12"/>')
        parts.append(f'<text x="{136 + width:.1f}" y="{y + 12}">{value:.0f}</text>')
    return _svg(620, 30 + len(bars) * height, title, parts)


def line_chart(title, points):
    """Return an SVG of one line, from pairs of x and y; the y axis starts at 0."""
    right, top = max(x for x, _ in points), max(y for _, y in points) * 1.1 or 1.0
    line = " ".join(f"{50 + 540 * x / right:.1f},{190 - 160 * y / top:.1f}" for x, y in points)
    parts = [f'<text x="4" y="14">{title}</text>', '<path class="a" d="M50 30V190H590" fill="none"/>']
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text x="4" y="{194 - 160 * share:.0f}">{top * share:.0f}</text>')
        parts.append(f'<text x="{44 + 530 * share:.0f}" y="206">{right * share:.0f}</text>')
    return _svg(620, 214, title, [*parts, f'<polyline class="l" points="{line}"/>'])


def _svg(width, height, title, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{title}</title>'
    return f"{head}{STYLE}{''.join(parts)}</svg>\n"


def write_page():
    """Write the recorded results between the marks of the page."""
    results = json.loads(RESULTS.read_text("utf-8"))
    text = PAGE.read_text("utf-8")
    sections = []
    if "bench" in results:
        sections.append("## Faults between client and server\n\n" + bench_section(results["bench"]))
    if "soak" in results:
        sections.append("## A soak of many hours\n\n" + soak_section(results["soak"]))
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(sections) + "\n" + END + tail, "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("bench", "soak", "page"))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--operations", type=int, default=2_000, help="training operations")
    parser.add_argument("--hours", type=float, default=30.0, help="simulated hours of the soak")
    parser.add_argument("--fault", action="append", help="only this fault; may be repeated")
    options = parser.parse_args()
    started = time.monotonic()
    if options.part == "bench":
        keep("bench", bench(options.samples, options.operations, options.fault or [*FAULTS, MIX]))
    elif options.part == "soak":
        keep("soak", soak(options.hours))
    write_page()
    print(f"done in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
