"""Checks of arguments that several modules share.

Each function returns the checked value, or raises ValueError or TypeError. The message has the argument's name, its
value and the allowed values; it never has the value of a secret.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, Mapping, Optional, Tuple

_SCHEME = "tinker://"


def check_text(name: str, value: Any, *, secret: bool = False) -> str:
    """Return ``value`` if it is a string that is not empty.

    Args:
        name: The argument's name, for the message.
        secret: Leave the value out of the message.

    Raises:
        ValueError: It is not such a string.
    """
    if isinstance(value, str) and value:
        return value
    shown = f"a {type(value).__name__}" if secret and value != "" else repr(value)
    raise ValueError(f"{name} must be a string that is not empty, not {shown}")


def check_optional_text(name: str, value: Any, *, secret: bool = False) -> Optional[str]:
    """Return ``value`` if it is None, or as :func:`check_text`."""
    return None if value is None else check_text(name, value, secret=secret)


def check_count(name: str, value: Any, *, least: int = 0) -> int:
    """Return ``value`` if it is an int of at least ``least``; True and False are no counts.

    Raises:
        ValueError: It is not such an int.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_one_of(name: str, value: Any, allowed: Collection[str]) -> Any:
    """Return ``value`` if it is None or one of ``allowed``; ValueError otherwise."""
    if value is None or value in allowed:
        return value
    raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")


def check_ttl(value: Any, name: str = "ttl_seconds") -> Optional[int]:
    """Return a checkpoint's time to live in seconds; None for unlimited.

    Servers have limits of their own, such as an hour to ten years.

    Raises:
        ValueError: It is not None and not a whole number of at least 1.
    """
    return None if value is None else check_count(name, value, least=1)


def check_labels(value: Optional[Mapping[str, str]], name: str = "user_metadata") -> Optional[Dict[str, str]]:
    """Return a copy of a mapping of strings to strings; None for None.

    Raises:
        TypeError: It is not a mapping, or a key or a value is not a string.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict of strings to strings, not {value!r}")
    for key, label in value.items():
        if not isinstance(key, str) or not isinstance(label, str):
            raise TypeError(f"{name} must map strings to strings, not {key!r} to {label!r}")
    return dict(value)


def check_model_path(value: Any, name: str = "model_path") -> str:
    """Return a path of saved weights; ValueError unless it starts with ``tinker://``."""
    if isinstance(value, str) and value.startswith(_SCHEME):
        return value
    raise ValueError(f"{name} must start with 'tinker://', as in tinker://RUN/weights/NAME, and {value!r} does not")


def split_checkpoint_path(tinker_path: str) -> Tuple[str, str]:
    """Split ``tinker://RUN/weights/NAME``, or ``tinker://RUN/NAME`` of some servers, into run and checkpoint id.

    Raises:
        ValueError: It is not a path of this form.
    """
    if isinstance(tinker_path, str) and tinker_path.startswith(_SCHEME):
        run, _, checkpoint = tinker_path[len(_SCHEME) :].partition("/")
        parts = [run, *checkpoint.split("/")]
        if len(parts) <= 3 and not any(part in ("", ".", "..") for part in parts):
            return run, checkpoint
    raise ValueError(f"invalid checkpoint path {tinker_path!r}: pass a path such as tinker://RUN/weights/NAME")
