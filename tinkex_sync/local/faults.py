"""Misbehaviour on request: what the server is told to do wrong, and the doing of it."""

from __future__ import annotations

import dataclasses
import random
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from ..concurrency.clock import Clock

__all__ = ["ENDPOINTS", "FaultGate", "Faults", "Verdict"]

#: What a per-endpoint fault may name: the first part of the path after ``/api/v1/``, or "archives" for the
#: files themselves. "*" stands for all of them.
ENDPOINTS = (
    "archives",
    "asample",
    "auth",
    "cancel_future",
    "checkpoints",
    "client",
    "copy_weights",
    "create_model",
    "create_sampling_session",
    "create_session",
    "forward",
    "forward_backward",
    "get_info",
    "get_server_capabilities",
    "healthz",
    "join_sampling_session",
    "load_weights",
    "optim_step",
    "retrieve_future",
    "retrieve_futures",
    "samplers",
    "save_weights",
    "save_weights_external",
    "save_weights_for_sampler",
    "session_heartbeat",
    "sessions",
    "telemetry",
    "training_runs",
    "unload_model",
    "weights_info",
)

#: What an unpaid account is refused.
_PAID = frozenset(
    {
        "asample",
        "create_model",
        "create_sampling_session",
        "create_session",
        "forward",
        "forward_backward",
        "load_weights",
        "optim_step",
        "save_weights",
        "save_weights_external",
        "save_weights_for_sampler",
    }
)

_STATES = ("active", "paused_capacity", "paused_rate_limit")
_KINDS = {"training": ("training",), "sampling": ("sampling",), "both": ("training", "sampling")}
_SHORT = "/api/v1/"


def _per_endpoint(name: str, given: Any, check: Callable[[Any], bool], what: str) -> Dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must map endpoints to values, not be {given!r}")
    result = {}
    for endpoint, value in given.items():
        short = endpoint[len(_SHORT) :] if str(endpoint).startswith(_SHORT) else endpoint
        if short != "*" and short not in ENDPOINTS:
            raise ValueError(f"{name}: no endpoint {endpoint!r}; there are *, {', '.join(ENDPOINTS)}")
        if isinstance(value, bool) or not check(value):
            raise ValueError(f"{name}[{endpoint!r}] must be {what}, not {value!r}")
        result[short] = value
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_status(value: Any) -> bool:
    return _is_count(value) and 400 <= value <= 599


def _is_rate(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_duration(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _are_statuses(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_status(status) for status in value)


@dataclass(frozen=True)
class Faults:
    """What the embedded server does wrong. The default is nothing. All durations are seconds.

    Mappings go from an endpoint (``"asample"``, ``"/api/v1/asample"``, or ``"*"`` for all) to a value. An
    endpoint's own entry goes before "*".

    Raises:
        ValueError: A value is out of range, or an endpoint does not exist.
    """

    #: Samples admitted per second; more are answered 429. None: no limit.
    admit_per_second: Optional[float] = None
    #: How many samples may be admitted at once after a quiet time (the size of the bucket).
    admit_burst: int = 1
    #: ``Retry-After`` of the 429 and of injected errors. None: no such header.
    retry_after: Optional[float] = None
    #: ``queue_state`` and ``queue_state_reason`` in the body of the 429. None: absent.
    refusal_state: Optional[str] = None
    refusal_reason: Optional[str] = None
    #: For how long, from now, nothing is run or completed and polls are answered 408 with the state below.
    pause: float = 0.0
    #: What is paused: "training", "sampling" or "both".
    pause_kind: str = "both"
    pause_state: str = "paused_capacity"
    pause_reason: Optional[str] = None
    #: For how long a poll is held at most during the pause.
    pause_hold: float = 1.0
    #: Delay before a request is looked at.
    latency: Mapping[str, float] = field(default_factory=dict)
    #: Share of requests answered with ``error_status`` instead of being handled.
    error_rate: Mapping[str, float] = field(default_factory=dict)
    error_status: int = 500
    #: ``detail`` of the injected errors, in JSON. None: a line of plain text, like that of a gateway.
    error_detail: Optional[str] = None
    #: Seed of the draws for ``error_rate``.
    seed: int = 0
    #: Statuses with which the first requests are answered, one each, instead of being handled.
    fail_first: Mapping[str, Sequence[int]] = field(default_factory=dict)
    #: How many connections are dropped with the request unhandled.
    drop_before: Mapping[str, int] = field(default_factory=dict)
    #: How many connections are dropped with the request handled and no answer sent.
    drop_after: Mapping[str, int] = field(default_factory=dict)
    #: How many answers are cut off in the middle of their body.
    truncate: Mapping[str, int] = field(default_factory=dict)
    #: For how long, from now, requests for work are answered 402. (For so many times: ``fail_first``.)
    unpaid: float = 0.0
    #: How many requests from now on are told that their token is not valid, if tokens are asked for.
    reject_tokens: int = 0
    #: How many of the promises given from now on lose their result: it is computed, and polls get 410.
    expire_promises: int = 0
    #: How many of the optimizer steps from now on corrupt their run: they fail, and so does all it is asked later.
    corrupt_runs: int = 0
    #: How many polls of each promise given from now on are answered 408 at once before one is held.
    try_again_polls: int = 0

    def __post_init__(self) -> None:
        checks: Dict[str, Any] = {
            "latency": (_is_duration, "seconds, 0 or more"),
            "error_rate": (_is_rate, "between 0 and 1"),
            "fail_first": (_are_statuses, "a list of statuses from 400 to 599"),
            "drop_before": (_is_count, "a count"),
            "drop_after": (_is_count, "a count"),
            "truncate": (_is_count, "a count"),
        }
        for name, (check, what) in checks.items():
            object.__setattr__(self, name, _per_endpoint(name, getattr(self, name), check, what))
        rate = self.admit_per_second
        self._require("admit_per_second", rate is None or (_is_number(rate) and rate > 0), "above 0")
        self._require("admit_burst", _is_count(self.admit_burst) and self.admit_burst >= 1, "1 or more")
        self._require("retry_after", self.retry_after is None or _is_duration(self.retry_after), "0 or more")
        self._require("pause", _is_duration(self.pause), "seconds, 0 or more")
        self._require("unpaid", _is_duration(self.unpaid), "seconds, 0 or more")
        self._require("reject_tokens", _is_count(self.reject_tokens), "a count")
        self._require("pause_hold", _is_duration(self.pause_hold), "seconds, 0 or more")
        self._require("pause_kind", self.pause_kind in _KINDS, f"one of {', '.join(_KINDS)}")
        self._require("pause_state", self.pause_state in _STATES, f"one of {', '.join(_STATES)}")
        self._require("error_status", _is_status(self.error_status), "from 400 to 599")
        self._require("seed", isinstance(self.seed, int), "an integer")
        self._require("expire_promises", _is_count(self.expire_promises), "a count")
        self._require("corrupt_runs", _is_count(self.corrupt_runs), "a count")
        self._require("try_again_polls", _is_count(self.try_again_polls), "a count")

    def _require(self, name: str, fine: bool, what: str) -> None:
        if not fine:
            raise ValueError(f"{name} must be {what}, not {getattr(self, name)!r}")

    def to_dict(self) -> Dict[str, Any]:
        """A JSON-ready dictionary of all fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Any) -> Faults:
        """The inverse of :meth:`to_dict`; fields may be left out.

        Raises:
            ValueError: Not an object, or a field that does not exist, or a value out of range.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"faults must be an object, not {given!r}")
        names = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(set(given) - names)
        if unknown:
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(sorted(names))}")
        return cls(**given)


@dataclass(frozen=True)
class Verdict:
    """What is to be done to one request. At most one of the last four is set."""

    delay: float = 0.0
    status: Optional[int] = None
    drop_before: bool = False
    drop_after: bool = False
    truncate: bool = False


class FaultGate:
    """Carries out a :class:`Faults`, which can be replaced while the server runs.

    Invariant: counters and draws restart when the faults are replaced; a request sees one set of faults.
    """

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self._clock = clock
        self._on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._install(faults)

    def _install(self, faults: Faults) -> None:
        """Call with ``_lock`` held, or before the gate is shared."""
        now = self._clock.time()
        self._faults = faults  # guarded by _lock
        self._random = random.Random(faults.seed)  # guarded by _lock
        self._fail_first = {name: list(statuses) for name, statuses in faults.fail_first.items()}
        self._counts = {
            "drop_before": dict(faults.drop_before),
            "drop_after": dict(faults.drop_after),
            "truncate": dict(faults.truncate),
        }  # guarded by _lock
        self._to_expire = faults.expire_promises  # guarded by _lock
        self._to_reject = faults.reject_tokens  # guarded by _lock
        self._to_corrupt = faults.corrupt_runs  # guarded by _lock
        self._unpaid_until = now + faults.unpaid  # guarded by _lock
        self._tokens = float(faults.admit_burst)  # guarded by _lock
        self._filled_at = now  # guarded by _lock
        self._paused_until = now + faults.pause  # guarded by _lock
        self._changed = threading.Event()  # guarded by _lock; set when this set of faults is replaced

    @property
    def faults(self) -> Faults:
        """What is being done wrong now."""
        with self._lock:
            return self._faults

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called after each replacement. Before the gate is shared."""
        self._on_change = on_change

    def replace(self, faults: Faults) -> None:
        """Do these from now on, counted from nothing."""
        with self._lock:
            replaced = self._changed
            self._install(faults)
        replaced.set()
        self._on_change()

    def judge(self, endpoint: str) -> Verdict:
        """What to do to the next request to ``endpoint``."""
        with self._lock:
            faults = self._faults
            delay = faults.latency.get(endpoint, faults.latency.get("*", 0.0))
            statuses = self._fail_first.get(endpoint) or self._fail_first.get("*")
            if statuses:
                return Verdict(delay, status=statuses.pop(0))
            if endpoint in _PAID and self._clock.time() < self._unpaid_until:
                return Verdict(delay, status=402)
            rate = faults.error_rate.get(endpoint, faults.error_rate.get("*", 0.0))
            if rate and self._random.random() < rate:
                return Verdict(delay, status=faults.error_status)
            for name, counts in self._counts.items():
                key = endpoint if counts.get(endpoint) else "*"
                if counts.get(key):
                    counts[key] -= 1
                    return Verdict(delay, **{name: True})
            return Verdict(delay)

    def admit(self) -> bool:
        """Whether the next sample is let in."""
        with self._lock:
            rate = self._faults.admit_per_second
            if rate is None:
                return True
            now = self._clock.time()
            filled = self._tokens + (now - self._filled_at) * rate
            self._tokens, self._filled_at = min(float(self._faults.admit_burst), filled), now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def expire_next(self) -> bool:
        """Whether the next promise is to lose its result."""
        with self._lock:
            if self._to_expire == 0:
                return False
            self._to_expire -= 1
            return True

    def reject_token(self) -> bool:
        """Whether the next token is to be called invalid."""
        with self._lock:
            if self._to_reject == 0:
                return False
            self._to_reject -= 1
            return True

    def corrupt(self) -> bool:
        """Whether the optimizer step that is about to be made corrupts its run."""
        with self._lock:
            if self._to_corrupt == 0:
                return False
            self._to_corrupt -= 1
            return True

    def _pause(self, kind: str) -> Tuple[float, threading.Event]:
        with self._lock:
            if kind not in _KINDS[self._faults.pause_kind]:
                return 0.0, self._changed
            return max(0.0, self._paused_until - self._clock.time()), self._changed

    def paused(self, kind: str) -> bool:
        """Whether ``kind`` ("training" or "sampling") is paused now."""
        return self._pause(kind)[0] > 0

    def wait_open(self, kind: str) -> None:
        """Return when ``kind`` is not paused."""
        left, changed = self._pause(kind)
        while left:
            self._clock.wait(changed, left)
            left, changed = self._pause(kind)
