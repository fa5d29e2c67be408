"""Replay of what the log says of pauses today: here the rule of 0.7.0 holds for every client and protocol."""

from typing import Any, Dict, List, Optional, Tuple

from scripted_server import Answer

from .registry import not_understood, only, replay38
from .replay_queue_state import hear

#: Whoever waits is told at once, then each 60 s; 0.38.0 says nothing of training for the first 900 s. (Row 1.)
TOLD_AT_ONCE = 1
INTERVAL = 60.0
CLIENT = "model-1"


@replay38("queue_state")
def queue_state(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given, recorded = only(case["input"], "observer", "calls"), only(case["expected"], "log")["log"]
    if given["observer"] != "training":
        not_understood(f"an observer of {given['observer']}")
    assert row == TOLD_AT_ONCE or not_understood(f"row {row} for this file")
    answers = []
    for call in given["calls"]:
        only(call, "t", "queue_state", "reason")
        body = {"queue_state": call["queue_state"], "queue_state_reason": call["reason"]}
        answers.append((float(call["t"]), Answer(408, body)))
    heard = hear("training", CLIENT, answers)
    assert [bool(lines) for lines in heard.logged[:-1]] == told(given["calls"])
    ours: Dict[float, str] = {
        float(call["t"]): lines[0][1] for call, lines in zip(given["calls"], heard.logged) if lines
    }
    for time, text in recorded:
        # Where both speak they give the same reason.
        if float(time) in ours:
            assert reason(ours[float(time)]) == reason(text).rstrip("."), text


def told(calls: List[Dict[str, Any]]) -> List[bool]:
    last: Optional[float] = None
    spoken = []
    for call in calls:
        due = call["queue_state"] != "active" and (last is None or call["t"] - last >= INTERVAL)
        last = call["t"] if due else last
        spoken.append(due)
    return spoken


def reason(line: str) -> str:
    words: Tuple[str, str, str] = line.partition("Reason: ")
    return words[2].rstrip(".")
