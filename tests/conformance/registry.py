"""Tools for modules that replay vector files: registration, strict reading of cases, and comparison.

A vector file contains recorded cases of the official SDK. A replay is a function of (case, document, row): the case,
the whole file, and the number of the row of DEVIATIONS.md that excuses the case, or None. It asserts the recorded
results. For an excused case it asserts the behaviour that the row describes, from the row's rule and the input alone,
so that it also works for cases that were recorded later.

A replay fails if it does not understand a part of a case. Read cases with :func:`only`, and end every choice between
forms with :func:`not_understood`.
"""

import builtins
import dataclasses
import json
import math
from typing import Any, Callable, Dict, NoReturn, Optional, Set, Type

import pytest

from tinkex_sync import errors

Replay = Callable[[Dict[str, Any], Dict[str, Any], Optional[int]], None]

#: Vector files of protocol 0.7.0 without a replay.
PENDING: Set[str] = set()

#: Replays of the files of protocol 0.7.0, by file name without suffix.
REPLAY: Dict[str, Replay] = {}

#: Vector files of protocol 0.38.0 without a replay. Some have the same name as a file of protocol 0.7.0.
PENDING38: Set[str] = set()

#: Replays of the files of protocol 0.38.0, by file name without suffix.
REPLAY38: Dict[str, Replay] = {}

#: Official classes that have another name in ``tinkex_sync.errors``.
RENAMED_ERRORS = {"TinkerError": "TinkexError", "RetryableException": "PromiseExpiredError"}

#: Parts of an input that are data of the user or of the server. A key "note" in them is not a comment.
_DATA = {"body", "kwargs", "loss_fn_config", "metrics", "user_metadata"}


def replay(stem: str) -> Callable[[Replay], Replay]:
    """Return a decorator that registers the replay of ``stem.json`` for protocol 0.7.0."""
    return _registering(REPLAY, stem)


def replay38(stem: str) -> Callable[[Replay], Replay]:
    """Return a decorator that registers the replay of ``stem.json`` for protocol 0.38.0."""
    return _registering(REPLAY38, stem)


def _registering(replays: Dict[str, Replay], stem: str) -> Callable[[Replay], Replay]:
    def register(function: Replay) -> Replay:
        assert stem not in replays, f"two replays for {stem}"
        replays[stem] = function
        return function

    return register


def not_understood(what: str) -> NoReturn:
    """Fail the case because the replay has no rule for a part of it."""
    pytest.fail(f"not understood: {what}")


def only(mapping: Dict[str, Any], *names: str) -> Dict[str, Any]:
    """Return ``mapping``; fail if it has keys other than ``names``."""
    unknown = sorted(set(mapping) - set(names))
    if unknown:
        not_understood(f"keys {unknown} in {sorted(mapping)}")
    return mapping


def no_excuse(row: Optional[int], *rows: int) -> None:
    """Fail a case that is excused by a row other than ``rows``, because the file has no rule for that row."""
    if row is not None and row not in rows:
        not_understood(f"row {row} for this file")


def revive(value: Any) -> Any:
    """Return ``value`` with each ``{"$float": "nan"}`` (also "inf", "-inf") replaced by the float."""
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: revive(inner) for key, inner in value.items()}
    return [revive(inner) for inner in value] if isinstance(value, list) else value


def without_notes(value: Any) -> Any:
    """Return an input without the comments under the key "note", at every depth except in data."""
    if isinstance(value, dict):
        return {
            key: inner if key in _DATA else without_notes(inner)
            for key, inner in value.items()
            if key != "note" or not isinstance(inner, str)
        }
    return [without_notes(inner) for inner in value] if isinstance(value, list) else value


def prepared(case: Dict[str, Any]) -> Dict[str, Any]:
    """Return a case as replays receive it: with its floats and without comments in its input."""
    revived = revive(only(case, "name", "input", "expected", "note"))
    return {**revived, "input": without_notes(revived["input"])}


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two values are equal, also in type (1, 1.0 and True differ), sign of zero and key order.

    NaN equals NaN.
    """
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return (
            ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs) or ours != ours and theirs != theirs
        )
    return bool(ours == theirs)


def error_class(name: str) -> Type[BaseException]:
    """Return the class for the name of an official or a built-in exception; fail if there is none."""
    if name == "JSONDecodeError":
        return json.JSONDecodeError
    kind = getattr(errors, RENAMED_ERRORS.get(name, name), None) or getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        not_understood(f"exception {name!r}")
    return kind


def check_raised(error: BaseException, expected: Dict[str, Any]) -> None:
    """Assert that an error is the recorded exception, or the exception that replaces it here.

    The recorded ValidationError of pydantic is a ValueError. Here an invalid value raises ValueError, a missing or
    unknown argument TypeError, and an assignment to a field FrozenInstanceError.
    """
    name = expected["exception"]
    if name == "ValidationError":
        assert isinstance(error, (ValueError, TypeError, dataclasses.FrozenInstanceError)), repr(error)
        return
    assert isinstance(error, error_class(name)), f"{error!r} is not a {name}"
    if "message" in expected:
        assert str(error) == expected["message"]
