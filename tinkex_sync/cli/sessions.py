"""``tinkex-sync session``: list and show the sessions on the server."""

from __future__ import annotations

import click

from .connections import connected_rest
from .groups import Group
from .output import Output, pass_output, wire_fields
from .paging import collect, count_text

__all__ = ["session"]

_PAGE = 100


@click.group(cls=Group)
def session() -> None:
    """List sessions and show their training runs and samplers."""


@session.command("list")
@click.option(
    "--limit", type=int, default=20, show_default=True, help="Largest number of sessions to show. 0 shows all."
)
@pass_output
def list_sessions(output: Output, limit: int) -> None:
    """List sessions, newest first."""
    from itertools import islice

    with connected_rest(output) as rest:
        if 0 < limit <= _PAGE:
            sessions, _ = collect(rest.list_sessions, "sessions", limit, _PAGE)
        else:
            # The listing of sessions contains no total count, so it is read page by page until it ends.
            sessions = list(islice(rest.iter_sessions(_PAGE), limit if limit > 0 else None))
    output.result(
        {"sessions": sessions},
        count_text(len(sessions), "session"),
        ("Session ID",),
        [(session_id,) for session_id in sessions],
    )


@session.command()
@click.argument("session_id")
@pass_output
def info(output: Output, session_id: str) -> None:
    """Show the training runs and samplers of one session."""
    with connected_rest(output) as rest:
        found = rest.get_session(session_id)
    output.result(
        {"session_id": session_id, **wire_fields(found)},
        f"Session: {session_id}",
        ("Property", "Value"),
        [
            ("Session ID", session_id),
            *(("Training Run", run_id) for run_id in found.training_run_ids),
            *(("Sampler", sampler_id) for sampler_id in found.sampler_ids),
        ],
    )
