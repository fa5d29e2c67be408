"""``tinkex-sync session``: sessions on the server."""

from __future__ import annotations

import click

from .connections import connected_rest
from .groups import Group
from .output import Output, pass_output, wire_fields
from .paging import collect, counted

__all__ = ["session"]

_PAGE = 100


@click.group(cls=Group)
def session() -> None:
    """Look at sessions: what was made in each."""


@session.command("list")
@click.option("--limit", type=int, default=20, show_default=True, help="Most to show; 0 shows all.")
@pass_output
def list_sessions(output: Output, limit: int) -> None:
    """List sessions, newest first."""
    from itertools import islice

    with connected_rest(output) as rest:
        if 0 < limit <= _PAGE:
            sessions, _ = collect(rest.list_sessions, "sessions", limit, _PAGE)
        else:
            # Their listing does not say how many there are.
            sessions = list(islice(rest.iter_sessions(_PAGE), limit if limit > 0 else None))
    output.result(
        {"sessions": sessions},
        counted(len(sessions), "session"),
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
