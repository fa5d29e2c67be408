"""What a module that replays vector files needs: registration, strict reading of cases, comparison.

A replay is a function of (case, document, row): the case, the whole file it stands in, and the number of the row of
DEVIATIONS.md that excuses it, or None. It asserts what was recorded; for an excused case it asserts what the row
promises instead, from the row's rule and the case's input, so that cases it has never seen work too. Whatever it does
not understand it must fail: read cases with :func:`only` and end every choice of kinds in :func:`not_understood`.
"""

import builtins
import dataclasses
import math
from typing import Any, Callable, Dict, NoReturn, Optional, Set

import pytest

Replay = Callable[[Dict[str, Any], Dict[str, Any], Optional[int]], None]

#: Vector files without a replay yet: a list to empty.
PENDING: Set[str] = set()

REPLAY: Dict[str, Replay] = {}

#: The same for the files of today's protocol, whose names are partly those of the older one's.
PENDING38: Set[str] = set()

REPLAY38: Dict[str, Replay] = {}


def replay(stem: str) -> Callable[[Replay], Replay]:
    """Register the replay of ``stem.json``."""
    return _registering(REPLAY, stem)


def replay38(stem: str) -> Callable[[Replay], Replay]:
    """Register the replay of ``stem.json`` among the files of today's protocol."""
    return _registering(REPLAY38, stem)


def _registering(replays: Dict[str, Replay], stem: str) -> Callable[[Replay], Replay]:
    def register(function: Replay) -> Replay:
        assert stem not in replays, f"two replays for {stem}"
        replays[stem] = function
        return function

    return register


def not_understood(what: str) -> NoReturn:
    pytest.fail(f"not understood: {what}")


def only(mapping: Dict[str, Any], *names: str) -> Dict[str, Any]:
    """``mapping``, which may have these keys and no others."""
    unknown = sorted(set(mapping) - set(names))
    if unknown:
        not_understood(f"keys {unknown} in {sorted(mapping)}")
    return mapping


def no_excuse(row: Optional[int], *rows: int) -> None:
    """Fail a case that is excused by a row other than ``rows``: this file has no rule for it."""
    if row is not None and row not in rows:
        not_understood(f"row {row} for this file")


def revive(value: Any) -> Any:
    """``value`` with ``{"$float": "nan"}`` and its like turned into floats."""
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: revive(inner) for key, inner in value.items()}
    return [revive(inner) for inner in value] if isinstance(value, list) else value


def same(ours: Any, theirs: Any) -> bool:
    """Equal, in type too (1 is not 1.0 is not True), with NaN equal to itself and key order minded."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return (
            ours == theirs
            and math.copysign(1, ours) == math.copysign(1, theirs)
            or ours != ours
            and theirs != theirs
        )
    return bool(ours == theirs)


def check_raised(error: BaseException, expected: Dict[str, Any]) -> None:
    """The recorded exception, or what stands for it here.

    pydantic's ValidationError was a ValueError. Here a value that does not fit is a ValueError, a missing or unknown
    argument Python's TypeError, an assignment to a field FrozenInstanceError.
    """
    name = expected["exception"]
    if name == "ValidationError":
        assert isinstance(error, (ValueError, TypeError, dataclasses.FrozenInstanceError)), repr(error)
        return
    kind = getattr(builtins, name, None)
    if kind is None:
        not_understood(f"exception {name}")
    assert isinstance(error, kind), f"{error!r} is not a {name}"
    if "message" in expected:
        assert str(error) == expected["message"]
