"""Settings: arguments over environment over defaults, frozen once made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union
from urllib.parse import urlsplit

from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .concurrency.clock import Clock
from .errors import ConfigError

__all__ = [
    "DEFAULT_BASE_URL",
    "LOCAL_KEY",
    "PROTOCOLS",
    "RETRY_POLICIES",
    "Config",
    "Preset",
    "RetryStrategies",
]

#: Stands in for a key towards the embedded server; no secret.
LOCAL_KEY = "local"
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"

#: Values of ``Config.protocol``.
PROTOCOLS = ("auto", "0.7", "0.38")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Preset(int):
    """A default that gives way to the server's word, as the same number set by the user does not."""


def _secret(default: Any = None) -> Any:
    return field(default=default, repr=False)


@dataclass(frozen=True)
class RetryStrategies:
    """A user's tenacity strategies for one retry policy; None keeps the strategy of the policy.

    A strategy is any object that tenacity accepts. The error of the failed attempt is
    ``retry_state.outcome.exception()``, and ``retry_state.attempt_number`` counts from 1.
    """

    #: Decides whether a failed attempt is retried, such as ``tenacity.retry_if_exception_type(...)``.
    retry: Optional[retry_base] = None
    #: Decides when to give up, such as ``tenacity.stop_after_attempt(3)``. Given, it replaces the policy's limits.
    stop: Optional[stop_base] = None
    #: Seconds to wait before the next attempt, such as ``tenacity.wait_fixed(1)``.
    wait: Optional[wait_base] = None


@dataclass(frozen=True)
class Config:
    """Every setting of a client. Times are seconds, sizes are bytes.

    Build it with :meth:`from_env`, which reads the environment too; the constructor alone reads nothing.
    ``repr`` shows no key, cookie or proxy password.

    Raises:
        ConfigError: a value is out of range; the text names the setting and the value.
    """

    #: Sent as ``X-API-Key``. Environment: TINKER_API_KEY.
    api_key: Optional[str] = _secret()
    #: A shell command that prints the key, run whenever one is needed; for servers that exchange it for a token.
    #: Environment: TINKER_CREDENTIAL_CMD.
    credential_command: Optional[str] = _secret()
    #: The project a session belongs to, on servers that have such. Environment: TINKER_PROJECT_ID.
    project_id: Optional[str] = None
    #: Where the server is; "local" starts the embedded one. Environment: TINKER_BASE_URL.
    base_url: str = DEFAULT_BASE_URL
    #: Labels of the session, sorted. Environment: TINKER_TAGS, comma separated.
    tags: Tuple[str, ...] = ()
    #: Announced at session creation; hosted servers refuse versions they no longer support.
    sdk_version: str = "0.7.0"

    #: What is spoken with the server: "0.7" (JSON), "0.38" (protobuf and what came with it), or "auto", which asks it.
    #: Environment: TINKEX_SYNC_PROTOCOL.
    protocol: str = "auto"
    #: How long calls wait while the server wants payment (402), unless the server gives a limit.
    billing_pause: float = 3600.0

    #: Deadline of every blocking call that is given no ``timeout=``; None waits for as long as it takes.
    timeout: Optional[float] = None
    connect_timeout: float = 5.0
    #: Longest silence while an answer is awaited; some servers do the work inside the POST.
    read_timeout: float = 300.0
    #: The same for polls: longer than any server holds one, so that none is abandoned.
    poll_timeout: float = 660.0
    #: First contact gives up after this long on refused connections, DNS and TLS errors.
    first_contact_timeout: float = 15.0
    #: How long leaving ``with`` waits for submissions to be sent.
    drain: float = 30.0
    heartbeat_interval: float = 10.0
    heartbeat_timeout: float = 10.0
    #: Retries of session and model creation, after the first attempt.
    max_retries: int = 10
    #: Other calls are retried for this long.
    retry_for: float = 300.0
    #: A poll gives up after this long without one good answer.
    poll_retry_for: float = 900.0
    #: A sample fails when no sample of its client has succeeded for this long.
    progress_timeout: float = 7200.0
    #: Tenacity strategies by name of the policy: "submit", "poll", "sampling", "short", "optional", "telemetry".
    retry_strategies: Mapping[str, RetryStrategies] = field(default_factory=dict)

    #: These two and ``dispatch_bytes`` are the server's to say where they are not set.
    max_chunk_datums: int = Preset(1024)
    max_chunk_bytes: int = Preset(5_000_000)
    max_dispatches: int = 400
    throttled_dispatches: int = 10
    dispatch_bytes: int = Preset(5 * 1024 * 1024)
    throttled_bytes_factor: int = 20
    #: How long after the end of a requested backoff the throttled limits still apply.
    throttle_memory: float = 10.0
    #: Up to this estimate a refused sample costs ``small_backoff`` seconds, above it ``large_backoff``.
    small_payload_bytes: int = 128 * 1024
    small_backoff: float = 1.0
    large_backoff: float = 5.0
    #: Samples per second after the stop that begins an episode of refusals, and the seconds it takes to double.
    pace_start: float = 20.0
    pace_doubling: float = 0.25
    #: What a refusal leaves of the rate accepted so far, and the least it can become; see docs/throttle.md.
    pace_cut: float = 0.9
    pace_floor: float = 1.0
    pace_growth: float = 5.0
    pace_search: float = 2.0
    #: The pace goes away when it held nobody back for so long.
    pace_memory: float = 10.0
    #: Threads that send submitted samples.
    dispatchers: int = 4
    #: Most long polls of submitted calls at once, each in a thread of its own.
    max_polls: int = 1000
    #: Connections kept open.
    pool_size: int = 1400

    #: Proxy URL by scheme; None takes HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
    proxies: Optional[Mapping[str, str]] = _secret()
    #: True: the certificate bundle that comes with requests (or REQUESTS_CA_BUNDLE, SSL_CERT_FILE);
    #: "system": the operating system's store; a path: that bundle; False: no check.
    verify: Union[bool, str] = True
    #: A file with certificate and key, or a pair of files.
    client_certificate: Union[None, str, Tuple[str, str]] = _secret()
    #: Sent with every request.
    headers: Mapping[str, str] = _secret(default=())
    #: Added to the query of every request; several values of one name are joined by commas.
    default_query: Mapping[str, Any] = _secret(default=())
    cloudflare_access_client_id: Optional[str] = _secret()
    cloudflare_access_client_secret: Optional[str] = _secret()
    #: Makes the ``requests.Session`` to use; its auth, hooks and adapters are kept.
    session_factory: Optional[Callable[[], Any]] = field(default=None, repr=False)
    #: Whether pickled clients take API key and other secrets along; otherwise the other process's environment counts.
    pickle_credentials: bool = False
    #: Send usage events to the server. Environment: TINKER_TELEMETRY.
    telemetry: bool = False
    clock: Clock = field(default_factory=Clock, repr=False)

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_strategies()
        object.__setattr__(self, "headers", dict(self.headers))
        object.__setattr__(self, "default_query", dict(self.default_query))
        object.__setattr__(self, "tags", tuple(sorted(set(self.tags))))
        for name in _POSITIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{name} must be a positive number, not {value!r}")
        for name in _FINITE:
            if getattr(self, name) > _LONGEST:
                raise ConfigError(f"{name} must be at most {_LONGEST:g} seconds, not {getattr(self, name)!r}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ConfigError(f"{name} must be a number of at least 0, not {value!r}")
        for name in _COUNTS:
            if not isinstance(getattr(self, name), int):
                raise ConfigError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("telemetry", "pickle_credentials"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not self.pace_cut <= 1:
            raise ConfigError(f"pace_cut must be at most 1, not {self.pace_cut!r}")
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        if self.timeout is not None and (
            isinstance(self.timeout, bool)
            or not isinstance(self.timeout, (int, float))
            or not self.timeout > 0
        ):
            raise ConfigError(f"timeout must be a positive number of seconds or None, not {self.timeout!r}")
        if isinstance(self.verify, str) and self.verify != "system" and not Path(self.verify).exists():
            raise ConfigError(
                f"verify={self.verify!r}: no such file; give a CA bundle, 'system', True or False"
            )
        if not isinstance(self.base_url, str) or (
            self.base_url != "local"
            and (
                urlsplit(self.base_url).scheme not in ("http", "https")
                or not urlsplit(self.base_url).hostname
            )
        ):
            raise ConfigError(
                f"base_url={self.base_url!r} is not a URL: give one such as https://host/prefix, or 'local'"
                " for the embedded server (argument base_url or environment variable TINKER_BASE_URL)"
            )
        for name, variable in _CREDENTIALS.items():
            value = getattr(self, name)
            if value is not None and not _fits_a_header(value):
                # Without the value, which is a secret.
                raise ConfigError(
                    f"{name} must be printable ASCII text without line breaks (argument {name} or"
                    f" environment variable {variable})"
                )

    def _check_strategies(self) -> None:
        given = self.retry_strategies
        is_valid = isinstance(given, Mapping) and all(
            name in RETRY_POLICIES and isinstance(value, RetryStrategies) for name, value in given.items()
        )
        if not is_valid:
            raise ConfigError(
                f"retry_strategies must be a mapping of policies ({', '.join(RETRY_POLICIES)}) to RetryStrategies,"
                f" not {given!r}"
            )

    def _check_texts(self) -> None:
        """What would be taken apart, or fail at the first request."""
        for name in ("credential_command", "project_id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                shown = "something else" if name in _UNSHOWN else repr(value)
                raise ConfigError(f"{name} must be a text that is not empty, or None, not {shown}")
        tags: Any = self.tags
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise ConfigError(f"tags must be a collection of texts, such as ['run-7'], not {self.tags!r}")
        if not isinstance(self.sdk_version, str) or not self.sdk_version:
            raise ConfigError(f"sdk_version must be a text such as '0.7.0', not {self.sdk_version!r}")
        for name, value in dict(self.default_query).items():
            values = value if isinstance(value, (list, tuple)) else [value]
            if not isinstance(name, str) or not all(isinstance(one, (str, int, float)) for one in values):
                raise ConfigError(
                    f"default_query: {name!r} must be a text, a number, a bool or a list of those"
                )
        for name, value in dict(self.headers).items():
            if not (_fits_a_header(name) and _fits_a_header(value)):
                raise ConfigError(f"headers: name and value of {name!r} must be printable ASCII texts")
        if self.proxies is not None and not (
            isinstance(self.proxies, Mapping) and all(isinstance(url, str) for url in self.proxies.values())
        ):
            raise ConfigError(
                "proxies must be a mapping of schemes to URLs, such as {'https': 'http://proxy:3128'}"
            )
        if self.session_factory is not None and not callable(self.session_factory):
            raise ConfigError(
                f"session_factory must be a function without arguments, not {self.session_factory!r}"
            )
        certificate = self.client_certificate
        for path in (certificate,) if isinstance(certificate, str) else certificate or ():
            if not Path(path).exists():
                raise ConfigError(f"client_certificate: no such file {path!r}")

    @classmethod
    def from_env(cls, **settings: Any) -> Config:
        """Settings given here, else those of the environment, else the defaults.

        An argument of None counts as not given.

        Raises:
            ConfigError: an unknown setting, or a wrong value; the text names it.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"unknown setting {unknown[0]!r}; the settings are {', '.join(sorted(known))}")
        values: Dict[str, Any] = {}
        for name, (variable, read) in _ENVIRONMENT.items():
            text = os.environ.get(variable)
            if text is not None and settings.get(name) is None:
                try:
                    value = read(text)
                except ValueError as error:
                    raise ConfigError(f"environment variable {variable}={text!r}: {error}") from None
                if value is not None:
                    values[name] = value
        from_outside = list(values)
        values.update((name, value) for name, value in settings.items() if value is not None)
        try:
            return cls(**values)
        except ConfigError as error:
            for name in from_outside:
                variable = _ENVIRONMENT[name][0]
                if str(error).startswith(name) and variable not in str(error):
                    raise ConfigError(f"{error} (environment variable {variable})") from None
            raise

    def for_pickle(self) -> Config:
        """What may travel to another process: without secrets, unless ``pickle_credentials``."""
        if self.pickle_credentials or self.api_key == LOCAL_KEY:
            return self
        return self.replace(
            api_key=None,
            credential_command=None,
            proxies=None,
            client_certificate=None,
            headers={},
            default_query={},
            cloudflare_access_client_id=None,
            cloudflare_access_client_secret=None,
            session_factory=None,
        )

    def with_credentials_from_env(self) -> Config:
        """With what :meth:`for_pickle` left out, as far as this process's environment has it."""
        found = Config.from_env(base_url=self.base_url)
        return self.replace(
            api_key=found.api_key,
            credential_command=found.credential_command,
            cloudflare_access_client_id=found.cloudflare_access_client_id,
            cloudflare_access_client_secret=found.cloudflare_access_client_secret,
        )

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed."""
        return replace(self, **changes)


#: Names of the retry policies; see docs/retries.md.
RETRY_POLICIES = ("short", "optional", "submit", "poll", "sampling", "telemetry")
_UNSHOWN = ("credential_command",)
#: Numbers of ``pace.ThrottleLimits`` beside those of the dispatches.
_PACE = (
    *("small_backoff", "large_backoff", "pace_start", "pace_doubling", "pace_cut", "pace_floor"),
    *("pace_growth", "pace_search", "pace_memory"),
)
_POSITIVE = (
    "connect_timeout",
    "read_timeout",
    "poll_timeout",
    "first_contact_timeout",
    "heartbeat_interval",
    "heartbeat_timeout",
    "retry_for",
    "poll_retry_for",
    "progress_timeout",
    "max_chunk_datums",
    "max_chunk_bytes",
    "max_dispatches",
    "throttled_dispatches",
    "dispatch_bytes",
    "throttled_bytes_factor",
    "dispatchers",
    "max_polls",
    "pool_size",
    *_PACE,
)
#: Sockets and events wait no longer than this.
_LONGEST = 3e6
_FINITE = ("connect_timeout", "read_timeout", "poll_timeout", "heartbeat_interval", "heartbeat_timeout")
_CREDENTIALS = {
    "api_key": "TINKER_API_KEY",
    "cloudflare_access_client_id": "CLOUDFLARE_ACCESS_CLIENT_ID",
    "cloudflare_access_client_secret": "CLOUDFLARE_ACCESS_CLIENT_SECRET",
}
_NOT_NEGATIVE = ("billing_pause", "drain", "max_retries", "small_payload_bytes", "throttle_memory")
_COUNTS = (
    "small_payload_bytes",
    "max_retries",
    "max_chunk_datums",
    "max_chunk_bytes",
    "max_dispatches",
    "throttled_dispatches",
    "dispatch_bytes",
    "throttled_bytes_factor",
    "dispatchers",
    "max_polls",
    "pool_size",
)


def _fits_a_header(text: object) -> bool:
    return isinstance(text, str) and text.isprintable() and text.isascii()


def _text(text: str) -> Optional[str]:
    return text or None


def _tags(text: str) -> Tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("give 1 or 0")


def _seconds(text: str) -> Optional[float]:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise ValueError("give a positive number of seconds")
    return value


_ENVIRONMENT: Dict[str, Tuple[str, Callable[[str], Any]]] = {
    "api_key": ("TINKER_API_KEY", _text),
    "base_url": ("TINKER_BASE_URL", _text),
    "credential_command": ("TINKER_CREDENTIAL_CMD", _text),
    "project_id": ("TINKER_PROJECT_ID", _text),
    "tags": ("TINKER_TAGS", _tags),
    "telemetry": ("TINKER_TELEMETRY", _flag),
    "timeout": ("TINKEX_SYNC_TIMEOUT", _seconds),
    "protocol": ("TINKEX_SYNC_PROTOCOL", _text),
    "cloudflare_access_client_id": ("CLOUDFLARE_ACCESS_CLIENT_ID", _text),
    "cloudflare_access_client_secret": ("CLOUDFLARE_ACCESS_CLIENT_SECRET", _text),
}
