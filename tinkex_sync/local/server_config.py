"""The protocol versions that the server supports, and the configuration that it returns to clients."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Optional

from ..errors import MissingExtraError

__all__ = ["CLIENT_CONFIG", "DYNAMIC_CONFIG", "PROTOCOLS", "ServerConfig", "parse_client_config"]

PROTOCOLS = ("0.7", "0.38", "both")

#: The default response of POST /api/v1/client/config.
CLIENT_CONFIG: Dict[str, Any] = {
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

#: The default response of POST /api/v1/client/dynamic_config.
DYNAMIC_CONFIG: Dict[str, Any] = {
    "refresh_interval_sec": 300,
    "sample_cancel_enabled": True,
    "sample_cancel_max_batch_size": 64,
}


@dataclass(frozen=True)
class ServerConfig:
    """The supported protocol versions, and the values that depend on them.

    Raises:
        ValueError: A value is out of range, or a key of ``client_config`` does not exist.
    """

    #: "0.7": training requests are JSON; "0.38": they are protobuf; "both": either.
    protocol: str = "0.7"
    #: Values of the responses of client/config and client/dynamic_config that replace the defaults. None omits a key.
    client_config: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds for which a token is valid.
    token_lifetime: float = 3600.0
    #: If a result has more bytes, a poll with ``allow_metadata_only`` returns its size first.
    metadata_threshold: int = 1_000_000

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        known = {**CLIENT_CONFIG, **DYNAMIC_CONFIG}
        for name, value in self.client_config.items():
            if name not in known:
                raise ValueError(f"client_config: unknown key {name!r}; use one of {', '.join(known)}")
            kind = type(known[name])
            # The exact type, because in Python bool is a subclass of int.
            if value is not None and (type(value) is not kind or (kind is int and value < 0)):
                raise ValueError(f"client_config: {name} must be {kind.__name__}, not {value!r}")
        if not self.token_lifetime > 0:
            raise ValueError(f"token_lifetime must be seconds, more than 0, not {self.token_lifetime!r}")
        if not self.metadata_threshold >= 0:
            raise ValueError(f"metadata_threshold must be bytes, 0 or more, not {self.metadata_threshold!r}")

    @property
    def supports_0_7(self) -> bool:
        """Whether requests of protocol 0.7.0 are accepted."""
        return self.protocol != "0.38"

    @property
    def supports_0_38(self) -> bool:
        """Whether requests of protocol 0.38.0 are accepted."""
        return self.protocol != "0.7"

    @property
    def requires_token(self) -> bool:
        """Whether requests must carry a token instead of the API key."""
        return self.supports_0_38 and bool(self.client_config.get("pjwt_auth_enabled"))

    @property
    def orders_by_number(self) -> bool:
        """Whether the operations of a model run in the order of their numbers instead of their arrival."""
        return self.supports_0_38 and bool(self.client_config.get("parallel_fwdbwd_chunks"))

    def client_config_response(self) -> Dict[str, Any]:
        """Return the response of POST /api/v1/client/config."""
        return self._with_overrides(CLIENT_CONFIG)

    def dynamic_config_response(self) -> Dict[str, Any]:
        """Return the response of POST /api/v1/client/dynamic_config."""
        return self._with_overrides(DYNAMIC_CONFIG)

    def _with_overrides(self, defaults: Mapping[str, Any]) -> Dict[str, Any]:
        response = {name: self.client_config.get(name, value) for name, value in defaults.items()}
        return {name: value for name, value in response.items() if value is not None}

    def check_extra(self) -> None:
        """Check that the libraries of the protocol are installed.

        Raises:
            MissingExtraError: Protocol 0.38.0 is supported, and protobuf is not installed.
        """
        if not self.supports_0_38:
            return
        try:
            is_installed = importlib.util.find_spec("google.protobuf") is not None
        except ModuleNotFoundError:
            is_installed = False
        if not is_installed:
            raise MissingExtraError(f'protocol {self.protocol} needs protobuf: pip install "tinkex-sync[local,proto]"')


def parse_client_config(arguments: Iterable[str]) -> Dict[str, Any]:
    """Parse the values of the option ``--client-config``.

    Args:
        arguments: Texts of the form ``NAME=VALUE``. VALUE is JSON, or a string if it is not valid JSON.

    Returns:
        The values by name.

    Raises:
        ValueError: A text has another form.
    """
    values: Dict[str, Optional[Any]] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"client-config: {text!r} must be NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
