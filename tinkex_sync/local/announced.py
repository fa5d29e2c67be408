"""What the server speaks, and what it says about itself to clients of today's protocol."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Optional

from ..errors import MissingExtraError

__all__ = ["CONFIG", "DYNAMIC", "PROTOCOLS", "Announced", "parsed"]

PROTOCOLS = ("0.7", "0.38", "both")

#: The reply of client/config, if nothing else is asked for.
CONFIG: Dict[str, Any] = {
    "pjwt_auth_enabled": False,
    "credential_default_source": "api_key",
    "parallel_fwdbwd_chunks": False,
    "proto_compress_fwdbwd": False,
    "fwdbwd_max_chunk_len": 1024,
    "fwdbwd_max_chunk_bytes_count": 5_000_000,
    "fwdbwd_dispatch_bytes_semaphore_size": 50_000_000,
    "sample_dispatch_bytes_semaphore_size": 10 * 1024 * 1024,
    "inflight_response_bytes_semaphore_size": 50 * 1024 * 1024,
    "sample_max_concurrent_requests": 2000,
    "sample_no_retries": False,
    "sample_enable_stuck_detection": True,
    "sample_use_retrieve_futures": False,
    "sample_join_sampling_session": False,
    "custom_loss_server_side": False,
    "billing_exception_max_pause_duration_sec": 3600,
}

#: The reply of client/dynamic_config.
DYNAMIC: Dict[str, Any] = {
    "refresh_interval_sec": 300,
    "sample_cancel_enabled": True,
    "sample_cancel_max_batch_size": 64,
}


@dataclass(frozen=True)
class Announced:
    """The protocol, and the server's word on it.

    Raises:
        ValueError: a value is out of range, or a key to announce does not exist.
    """

    #: "0.7": JSON training requests; "0.38": protobuf ones only; "both".
    protocol: str = "0.7"
    #: Keys of the replies of client/config and client/dynamic_config that differ from the above; None leaves a key out.
    changes: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds for which a token is good.
    token_life: float = 3600.0
    #: A result of more bytes is first told by its size, to clients that ask for that.
    metadata_above: int = 1_000_000

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        known = {**CONFIG, **DYNAMIC}
        for name, value in self.changes.items():
            if name not in known:
                raise ValueError(f"announce: there is no {name!r}; there are {', '.join(known)}")
            kind = type(known[name])
            # A bool is an int to Python.
            if value is not None and (type(value) is not kind or (kind is int and value < 0)):
                raise ValueError(f"announce: {name} must be {kind.__name__}, not {value!r}")
        if not self.token_life > 0:
            raise ValueError(f"token_life must be seconds, more than 0, not {self.token_life!r}")
        if not self.metadata_above >= 0:
            raise ValueError(f"metadata_above must be bytes, 0 or more, not {self.metadata_above!r}")

    @property
    def old(self) -> bool:
        """Whether level 0.7.0 is spoken."""
        return self.protocol != "0.38"

    @property
    def modern(self) -> bool:
        """Whether today's protocol is spoken."""
        return self.protocol != "0.7"

    @property
    def tokens(self) -> bool:
        """Whether requests must carry a token in place of the key."""
        return self.modern and bool(self.changes.get("pjwt_auth_enabled"))

    @property
    def ordered(self) -> bool:
        """Whether operations of a model wait for those of lower numbers."""
        return self.modern and bool(self.changes.get("parallel_fwdbwd_chunks"))

    def config(self) -> Dict[str, Any]:
        """The reply of client/config."""
        return self._reply(CONFIG)

    def dynamic(self) -> Dict[str, Any]:
        """The reply of client/dynamic_config."""
        return self._reply(DYNAMIC)

    def _reply(self, defaults: Mapping[str, Any]) -> Dict[str, Any]:
        reply = {name: self.changes.get(name, value) for name, value in defaults.items()}
        return {name: value for name, value in reply.items() if value is not None}

    def check_extra(self) -> None:
        """Raises: MissingExtraError: protobuf is to be spoken and not installed."""
        try:
            there = not self.modern or importlib.util.find_spec("google.protobuf") is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            raise MissingExtraError(
                f'protocol {self.protocol} needs protobuf: pip install "tinkex-sync[local,proto]"'
            )


def parsed(given: Iterable[str]) -> Dict[str, Any]:
    """``NAME=VALUE`` texts of a command line, VALUE being JSON.

    Raises:
        ValueError: one of them is something else.
    """
    changes: Dict[str, Optional[Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"announce: {text!r} must be NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes
