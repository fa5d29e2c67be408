"""``tinkex-sync doctor``: where it fails, and what to do."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import click

from ..groups import Command
from ..output import Output, pass_output

__all__ = ["doctor"]

_NOT_RUN = "not looked at, because of what failed before"


@click.command(cls=Command)
@click.option("-m", "--model", metavar="NAME", help="Draw one token from this model, or tinker:// path.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for any one answer.",
)
@pass_output
def doctor(output: Output, /, model: Optional[str], timeout: float) -> None:
    """Check the way to the server, step by step.

    Settings, proxy, name resolution, connection, TLS, API key, version, and what the server can do. Exit status 0
    means that all is well.
    """
    from ...errors import TinkexError
    from .checks import CHECKS, Patient
    from .findings import Finding

    patient = Patient(output.base_url, model, timeout)
    rows: List[Dict[str, Any]] = []
    stopped = False
    try:
        for check in CHECKS:
            if stopped:
                rows.append(_row(check.name, "skipped", _NOT_RUN))
                continue
            try:
                found = check.run(patient)
            except (TinkexError, OSError) as error:
                found = Finding("failed", str(error), "The server answered before: run it again.")
            rows.append(_row(check.name, found.verdict, found.text, found.remedy, found.fault, found.data))
            stopped = found.verdict == "failed" and check.needed
    finally:
        patient.close()
    well = all(row["verdict"] != "failed" for row in rows)
    output.result(
        {"ok": well, "checks": rows},
        "All is well" if well else "Something is wrong",
        ("Check", "Verdict", "Finding"),
        [(row["check"], row["verdict"], row["finding"]) for row in rows],
    )
    for row in rows:
        if row["verdict"] == "failed":
            output.note(f"{row['fault']}: {row['finding']}\n  What to do: {row['remedy']}")
    if not well:
        click.get_current_context().exit(1)


def _row(
    check: str,
    verdict: str,
    finding: str,
    remedy: str = "",
    fault: str = "",
    data: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    return {
        "check": check,
        "verdict": verdict,
        "fault": fault or (check if verdict == "failed" else ""),
        "finding": finding,
        "remedy": remedy,
        "data": data or {},
    }
