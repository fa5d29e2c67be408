"""The faults that the server can be configured to inject. :mod:`fault_gate` injects them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

__all__ = ["ENDPOINTS", "PAUSABLE", "Faults"]

#: The endpoints that a fault can name: the first part of the path after ``/api/v1/``, or "archives" for downloads of
#: archives. "*" stands for all endpoints.
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

_QUEUE_STATES = ("active", "paused_capacity", "paused_rate_limit")
#: The kinds of operations that a value of ``pause_kind`` pauses.
PAUSABLE = {"training": ("training",), "sampling": ("sampling",), "both": ("training", "sampling")}
_PATH_PREFIX = "/api/v1/"


def _by_endpoint(name: str, values: Any, is_valid: Callable[[Any], bool], rule: str) -> Dict[str, Any]:
    """Check a mapping from endpoints to values, and shorten its keys to the names in ENDPOINTS."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must map endpoints to values, not be {values!r}")
    result = {}
    for key, value in values.items():
        endpoint = key[len(_PATH_PREFIX) :] if str(key).startswith(_PATH_PREFIX) else key
        if endpoint != "*" and endpoint not in ENDPOINTS:
            raise ValueError(f"{name}: unknown endpoint {key!r}; use one of *, {', '.join(ENDPOINTS)}")
        if isinstance(value, bool) or not is_valid(value):
            raise ValueError(f"{name}[{key!r}] must be {rule}, not {value!r}")
        result[endpoint] = value
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


#: A check, and the text of the rule for the error message.
_Rule = Tuple[Callable[[Any], bool], str]
_SECONDS: _Rule = (_is_duration, "seconds, 0 or more")
_COUNT: _Rule = (_is_count, "a count")

_MAPPING_RULES: Dict[str, _Rule] = {
    "latency": _SECONDS,
    "error_rate": (_is_rate, "between 0 and 1"),
    "fail_first": (_are_statuses, "a list of statuses from 400 to 599"),
    "drop_before": _COUNT,
    "drop_after": _COUNT,
    "truncate": _COUNT,
}
_RULES: Dict[str, _Rule] = {
    "admit_per_second": (lambda rate: rate is None or (_is_number(rate) and rate > 0), "above 0"),
    "admit_burst": (lambda size: _is_count(size) and size >= 1, "1 or more"),
    "retry_after": (lambda seconds: seconds is None or _is_duration(seconds), "0 or more"),
    "pause": _SECONDS,
    "unpaid": _SECONDS,
    "reject_tokens": _COUNT,
    "pause_hold": _SECONDS,
    "pause_kind": (lambda kind: kind in PAUSABLE, f"one of {', '.join(PAUSABLE)}"),
    "pause_state": (lambda state: state in _QUEUE_STATES, f"one of {', '.join(_QUEUE_STATES)}"),
    "error_status": (_is_status, "from 400 to 599"),
    "seed": (lambda seed: isinstance(seed, int), "an integer"),
    "expire_promises": _COUNT,
    "corrupt_runs": _COUNT,
    "try_again_polls": _COUNT,
}


@dataclass(frozen=True)
class Faults:
    """The faults that the embedded server injects. By default there are none. All durations are seconds.

    Mappings have endpoints as keys: ``"asample"``, ``"/api/v1/asample"``, or ``"*"`` for all endpoints. The entry of
    an endpoint takes precedence over "*".

    Raises:
        ValueError: A value is out of range, or an endpoint does not exist.
    """

    #: Samples admitted per second. Further samples get 429. None: no limit.
    admit_per_second: Optional[float] = None
    #: The size of the token bucket: the number of samples admitted together after an idle period.
    admit_burst: int = 1
    #: The header ``Retry-After`` of the 429 and of injected errors. None: no header.
    retry_after: Optional[float] = None
    #: ``queue_state`` and ``queue_state_reason`` in the body of the 429. None: absent.
    refusal_state: Optional[str] = None
    refusal_reason: Optional[str] = None
    #: For this time nothing is computed or completed, and polls get 408 with the queue state below.
    pause: float = 0.0
    #: The paused operations: "training", "sampling" or "both".
    pause_kind: str = "both"
    pause_state: str = "paused_capacity"
    pause_reason: Optional[str] = None
    #: The longest time for which a poll is held during the pause.
    pause_hold: float = 1.0
    #: The delay before a request is handled.
    latency: Mapping[str, float] = field(default_factory=dict)
    #: The share of requests that get ``error_status`` instead of being handled.
    error_rate: Mapping[str, float] = field(default_factory=dict)
    error_status: int = 500
    #: ``detail`` in the JSON body of injected errors. None: a line of plain text, as gateways return.
    error_detail: Optional[str] = None
    #: The seed of the random choices for ``error_rate``.
    seed: int = 0
    #: The status codes of the first requests, one each. These requests are not handled.
    fail_first: Mapping[str, Sequence[int]] = field(default_factory=dict)
    #: The number of connections that are closed before the request is handled.
    drop_before: Mapping[str, int] = field(default_factory=dict)
    #: The number of connections that are closed after the request is handled, without a response.
    drop_after: Mapping[str, int] = field(default_factory=dict)
    #: The number of responses that end in the middle of the body.
    truncate: Mapping[str, int] = field(default_factory=dict)
    #: For this time requests for work get 402. ``fail_first`` limits the number of 402 instead.
    unpaid: float = 0.0
    #: The number of requests whose token is rejected as invalid, if the server requires tokens.
    reject_tokens: int = 0
    #: The number of accepted operations whose result is lost: it is computed, and polls get 410.
    expire_promises: int = 0
    #: The number of optimizer steps that corrupt their run. They fail, and so do all later operations of the run.
    corrupt_runs: int = 0
    #: The number of polls per accepted operation that get 408 immediately, before a poll is held.
    try_again_polls: int = 0

    def __post_init__(self) -> None:
        for name, (is_valid, rule) in _MAPPING_RULES.items():
            object.__setattr__(self, name, _by_endpoint(name, getattr(self, name), is_valid, rule))
        for name, (is_valid, rule) in _RULES.items():
            value = getattr(self, name)
            if not is_valid(value):
                raise ValueError(f"{name} must be {rule}, not {value!r}")

    def to_dict(self) -> Dict[str, Any]:
        """Return all fields as a dict that can be encoded as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Faults:
        """Make faults from the result of :meth:`to_dict`. Absent fields have their defaults.

        Raises:
            ValueError: ``values`` is not a mapping, a field does not exist, or a value is out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"faults must be an object, not {values!r}")
        names = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(f"unknown fault {', '.join(unknown)}; use one of {', '.join(sorted(names))}")
        return cls(**values)
