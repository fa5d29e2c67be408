"""The texts that explain a queue state when the server's response has no reason."""

from __future__ import annotations

from typing import Dict

__all__ = ["CLIENT_REASONS", "REASONS", "default_reason"]

#: Reason by queue state, for every kind of client without an entry in ``CLIENT_REASONS``.
REASONS: Dict[str, str] = {
    "paused_rate_limit": "concurrent training clients rate limit hit",
    "paused_capacity": "Tinker backend is running short on capacity, please wait",
}

#: Reason by queue state for one kind of client: kind -> queue state -> reason.
CLIENT_REASONS: Dict[str, Dict[str, str]] = {
    "sampling": {"paused_rate_limit": "concurrent sampler weights limit hit"},
}


def default_reason(kind: str, state: str) -> str:
    """Return the reason to show for a queue state that the server did not explain.

    Args:
        kind: Kind of the client, see ``Source.kind``.
        state: Queue state, a value of ``QueueState``.

    Returns:
        The reason; "unknown" for a state without a text.
    """
    return CLIENT_REASONS.get(kind, {}).get(state) or REASONS.get(state, "unknown")
