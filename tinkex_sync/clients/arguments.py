"""Arguments of the service client, checked and made ready before anything is sent."""

from __future__ import annotations

from typing import Any, Dict

__all__ = ["asked"]

#: What a checkpoint may live, in seconds.
_TTL = (3600, 10 * 365 * 86400)


def asked(**fields: Any) -> Dict[str, Any]:
    """The fields that were given: what came after 0.7.0 is sent only when it is asked for.

    Raises:
        ValueError, TypeError: ``ttl_seconds`` or ``user_metadata`` is not what the server can take.
    """
    ttl, labels = fields.get("ttl_seconds"), fields.get("user_metadata")
    if ttl is not None and (
        isinstance(ttl, bool) or not isinstance(ttl, int) or not _TTL[0] <= ttl <= _TTL[1]
    ):
        raise ValueError(
            f"ttl_seconds must be a whole number from {_TTL[0]} to {_TTL[1]} or None, not {ttl!r}"
        )
    if labels is not None:
        fields["user_metadata"] = labels = dict(labels)
        for key, value in labels.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"user_metadata maps text to text, not {key!r} to {value!r}")
    return {name: value for name, value in fields.items() if value is not None}
