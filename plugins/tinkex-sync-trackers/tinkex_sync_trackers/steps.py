"""Collects the values of each training step from events, in the order in which the steps were submitted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set

from tinkex_sync.plugins import Source

__all__ = ["Steps", "Values"]

#: Calls that add gradients to the next optimizer step.
_PASSES = ("forward_backward", "forward_backward_custom")


class Values(NamedTuple):
    """The values of one step of a training client."""

    source: Source
    step: int
    values: Dict[str, float]


@dataclass
class _Group:
    """The passes and the optimizer step that belong together."""

    open_calls: Set[str] = field(default_factory=set)
    losses: List[float] = field(default_factory=list)
    values: Dict[str, float] = field(default_factory=dict)
    #: The call of the optimizer step, and its number once it has ended.
    step_call: Optional[str] = None
    step: Optional[int] = None
    has_failed: bool = False
    began: Optional[float] = None


class Steps:
    """Groups of calls by training client. Not thread-safe.

    A pass belongs to the first optimizer step that is called after it, whichever result arrives first.
    """

    def __init__(self) -> None:
        self._groups: Dict[Source, List[_Group]] = defaultdict(lambda: [_Group()])
        self._group_of: Dict[str, _Group] = {}
        self._tokens: Dict[Source, int] = defaultdict(int)
        #: Values of sampling clients since the last step, by session.
        self._sampled: Dict[str, Dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._last_step: Dict[Source, int] = {}

    def started(self, time: float, source: Source, call_id: str, operation: str) -> None:
        if source.kind != "training" or operation not in (*_PASSES, "forward", "optim_step"):
            return
        groups = self._groups[source]
        group = groups[-1]
        self._group_of[call_id] = group
        if operation == "forward":
            return
        group.open_calls.add(call_id)
        group.began = time if group.began is None else group.began
        if operation == "optim_step":
            group.step_call = call_id
            groups.append(_Group())

    def serialized(self, call_id: str, payload: Mapping[str, float]) -> None:
        group = self._group_of.get(call_id)
        if group is not None:
            group.values.update((f"optim/{name}", value) for name, value in payload.items())

    def waited(self, source: Source, call_id: str, seconds: float) -> None:
        """Add the time that a call waited in a queue of the server."""
        if source.kind == "training" and call_id in self._group_of:
            values: Dict[str, float] = self._group_of[call_id].values
            values["train/queue_seconds"] = values.get("train/queue_seconds", 0.0) + seconds
        elif source.kind == "sampling":
            self._sampled[source.session_id]["sample/queue_seconds"] += seconds

    def ended(
        self, time: float, source: Source, call_id: str, operation: str, outcome: str, facts: Mapping[str, Any]
    ) -> Iterator[Values]:
        """Take the facts of a call; yield the values of steps that are complete."""
        if "completion_tokens" in facts:
            sampled = self._sampled[source.session_id]
            for name in ("prompt_tokens", "completion_tokens"):
                sampled[f"sample/{name}"] += facts[name]
            sampled["sample/samples"] += 1
        group = self._group_of.pop(call_id, None)
        if group is None:
            return
        if operation == "forward":
            if outcome == "ok":
                yield Values(source, self._last_step.get(source, 0), _metrics("forward", facts))
            return
        group.open_calls.discard(call_id)
        if call_id == group.step_call:
            group.step = facts.get("step")
            group.has_failed = group.step is None
            group.values.update(_metrics("optim", facts))
            group.values["train/seconds"] = time - (time if group.began is None else group.began)
        elif outcome == "ok":
            group.values.update(_metrics("train", facts))
            if "loss" in facts:
                group.losses.append(facts["loss"])
            tokens = facts.get("tokens", 0)
            self._tokens[source] += tokens
            group.values["train/tokens"] = group.values.get("train/tokens", 0) + tokens
            group.values["train/datums"] = group.values.get("train/datums", 0) + facts.get("datums", 0)
        yield from self._complete(source)

    def _complete(self, source: Source) -> Iterator[Values]:
        groups = self._groups[source]
        while groups[0].step_call is not None and not groups[0].open_calls:
            group = groups.pop(0)
            if group.has_failed or group.step is None:
                continue
            if group.losses:
                group.values["train/loss"] = sum(group.losses) / len(group.losses)
            group.values["train/tokens_total"] = self._tokens[source]
            values = {**group.values, **self._sampled.pop(source.session_id, {})}
            self._last_step[source] = group.step
            yield Values(source, group.step, values)

    def forget(self, session_id: str) -> None:
        """Forget the clients of a session."""
        gone = [source for source in self._groups if source.session_id == session_id]
        lost = {id(group) for source in gone for group in self._groups[source]}
        for source in gone:
            del self._groups[source]
            self._tokens.pop(source, None)
            self._last_step.pop(source, None)
        self._group_of = {call: group for call, group in self._group_of.items() if id(group) not in lost}
        self._sampled.pop(session_id, None)


def _metrics(prefix: str, facts: Mapping[str, Any]) -> Dict[str, float]:
    """Return the metrics of a result; "loss:sum" becomes "train/loss_sum", because MLflow allows no colon."""
    found = {f"{prefix}/{name.replace(':', '_')}": float(value) for name, value in facts.get("metrics", {}).items()}
    if prefix == "forward" and "loss" in facts:
        found["forward/loss"] = facts["loss"]
    return found
