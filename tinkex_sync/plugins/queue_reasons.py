"""The texts that explain a queue state when the server's response has no reason."""

from __future__ import annotations

_REASONS = {
    "paused_rate_limit": "concurrent training clients rate limit hit",
    "paused_capacity": "Tinker backend is running short on capacity, please wait",
}
_REASONS_OF_SAMPLING_CLIENTS = {**_REASONS, "paused_rate_limit": "concurrent sampler weights limit hit"}


def default_reason(kind: str, state: str) -> str:
    """Return the reason to show for a queue state that the server did not explain.

    Args:
        kind: Kind of the client, see ``Source.kind``.
        state: Queue state, a value of ``QueueState``.

    Returns:
        The reason; "unknown" for a state without a text.
    """
    reasons = _REASONS_OF_SAMPLING_CLIENTS if kind == "sampling" else _REASONS
    return reasons.get(state, "unknown")
