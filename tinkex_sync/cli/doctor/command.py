"""``tinkex-sync doctor``: check the connection to the server step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

import click

from ..groups import Command
from ..output import Output, pass_output

if TYPE_CHECKING:
    from .checks import CheckContext
    from .findings import Finding

__all__ = ["doctor"]


@click.command(cls=Command)
@click.option("-m", "--model", metavar="NAME", help="Sample one token from this model or tinker:// path.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time for each response.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@pass_output
def doctor(output: Output, /, model: Optional[str], timeout: float, as_json: bool) -> None:
    """Check the connection to the server step by step.

    The checks cover settings, proxy, name resolution, connection, TLS, API key, version, and endpoints. The exit
    status is 0 if no check failed.
    """
    from .checks import CheckContext

    if as_json:
        output.format = "json"
    context = CheckContext(output.base_url, model, timeout)
    try:
        rows = _run_checks(context)
    finally:
        context.close()
    is_ok = all(row["verdict"] != "failed" for row in rows)
    output.result(
        {"ok": is_ok, "checks": rows},
        "No problem found" if is_ok else "A check failed",
        ("Check", "Verdict", "Finding"),
        [(row["check"], row["verdict"], row["finding"]) for row in rows],
    )
    for row in rows:
        if row["verdict"] == "failed":
            output.note(f"{row['fault']}: {row['finding']}\n  What to do: {row['remedy']}")
    if not is_ok:
        click.get_current_context().exit(1)


def _run_checks(context: CheckContext) -> List[Dict[str, Any]]:
    """Run the checks and return their results as JSON values. After a required check failed, the rest is skipped."""
    from ...errors import TinkexError
    from .checks import CHECKS
    from .findings import Finding

    rows: List[Dict[str, Any]] = []
    is_stopped = False
    for check in CHECKS:
        if is_stopped:
            rows.append(_row(check.name, Finding("skipped", "not checked because an earlier check failed")))
            continue
        try:
            finding = check.run(context)
        except (TinkexError, OSError) as error:
            finding = Finding("failed", str(error), "The server responded before: run the doctor again.")
        rows.append(_row(check.name, finding))
        is_stopped = finding.verdict == "failed" and check.is_required
    return rows


def _row(check: str, finding: Finding) -> Dict[str, Any]:
    return {
        "check": check,
        "verdict": finding.verdict,
        "fault": finding.fault or (check if finding.verdict == "failed" else ""),
        "finding": finding.text,
        "remedy": finding.remedy,
        "data": finding.data,
    }
