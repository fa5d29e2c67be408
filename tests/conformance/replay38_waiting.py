"""Replay of the log lines about pauses in protocol 0.38.0. Here the rule of 0.7.0 holds for every protocol."""

from typing import Any, Dict, List, Optional

from scripted_server import Answer

from .registry import no_excuse, not_understood, only, replay38
from .replay_queue_state import record_polls

#: Pauses are logged immediately and then every 60 s. 0.38.0 logs no pause of training in the first 900 s. (Row 1.)
LOGGED_IMMEDIATELY = 1
INTERVAL = 60.0
CLIENT = "model-1"


@replay38("queue_state")
def queue_state(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given, recorded = only(case["input"], "observer", "calls"), only(case["expected"], "log")["log"]
    if given["observer"] not in ("training", "sampling"):
        not_understood(f"an observer of {given['observer']}")
    no_excuse(row, LOGGED_IMMEDIATELY)
    answers = []
    for call in given["calls"]:
        only(call, "t", "queue_state", "reason")
        body = {"queue_state": call["queue_state"], "queue_state_reason": call["reason"]}
        answers.append((float(call["t"]), Answer(408, body)))
    logged = record_polls(given["observer"], CLIENT, answers).logged
    times = [float(call["t"]) for call in given["calls"]]
    ours = {time: lines[0][1] for time, lines in zip(times, logged) if lines}
    if row is None:
        assert list(ours) == [float(time) for time, _ in recorded]
    else:
        assert list(ours) == expected_times(given["calls"])
    for time, text in recorded:
        # Lines of both clients at the same time contain the same reason.
        if float(time) in ours:
            assert reason_in(ours[float(time)]) == reason_in(text), text


def expected_times(calls: List[Dict[str, Any]]) -> List[float]:
    """Return the times of the log lines by the rule of 0.7.0."""
    times: List[float] = []
    for call in calls:
        if call["queue_state"] != "active" and (not times or call["t"] - times[-1] >= INTERVAL):
            times.append(float(call["t"]))
    return times


def reason_in(line: str) -> str:
    return line.partition("Reason: ")[2].rstrip(".")
