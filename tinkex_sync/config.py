"""Settings of a client, frozen once they are made. Arguments override the environment, which overrides the defaults.

Each setting is one line with its default and its check. The checks are the small functions before :class:`Config`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Tuple, Union
from urllib.parse import parse_qsl, unquote, urlsplit

from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .concurrency.clock import Clock
from .errors import ConfigError

__all__ = [
    "DEFAULT_BASE_URL", "LOCAL_KEY", "PROTOCOLS", "RETRY_POLICIES", "Config", "Preset", "RetryStrategies",
    "ThrottleLimits",
]  # fmt: skip

#: The key for the embedded server; not a secret.
LOCAL_KEY = "local"
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"

#: Values of ``Config.protocol``.
PROTOCOLS = ("auto", "0.7", "0.38")
#: Names of the retry policies in ``Config.retry_strategies``.
RETRY_POLICIES = ("short", "optional", "submit", "poll", "sampling", "telemetry")

#: Longest timeout of a socket or an event, in seconds.
_LONGEST = 3e6


class Preset(int):
    """A default that the server's limit replaces. The same number set by the user is not replaced."""


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


# Checks. Each gets a value and returns None if it is valid, or else the text after the setting's name.

Check = Callable[[Any], Optional[str]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _rule(is_valid: Callable[[Any], bool], expected: str) -> Check:
    """Return the check of a simple rule, such as "a number > 0"."""
    return lambda value: None if is_valid(value) else f"must be {expected}, got {value!r}"


_check_positive = _rule(lambda value: _is_number(value) and value > 0, "a number > 0")
_check_not_negative = _rule(lambda value: _is_number(value) and value >= 0, "a number >= 0")
_check_share = _rule(lambda value: _is_number(value) and 0 < value <= 1, "a number > 0 and <= 1")
_check_wait = _rule(
    lambda value: _is_number(value) and 0 < value <= _LONGEST, f"a number of seconds > 0 and <= {_LONGEST:g}"
)
_check_timeout = _rule(
    lambda value: value is None or (_is_number(value) and value > 0), "a number of seconds > 0, or None"
)
_check_count = _rule(lambda value: _is_count(value) and value >= 1, "an integer >= 1")
_check_size = _rule(lambda value: _is_count(value) and value >= 0, "an integer >= 0")
_check_flag = _rule(lambda value: isinstance(value, bool), "True or False")
_check_text = _rule(_is_text, "a string that is not empty")
_check_optional_text = _rule(lambda value: value is None or _is_text(value), "a string that is not empty")
_check_protocol = _rule(lambda value: value in PROTOCOLS, f"one of {', '.join(PROTOCOLS)}")
_check_factory = _rule(lambda value: value is None or callable(value), "a function without arguments, or None")
_check_tags = _rule(
    lambda value: not isinstance(value, str) and all(isinstance(tag, str) for tag in value),
    "a collection of strings, such as ['run-7']",
)


def _check_secret_text(value: Any) -> Optional[str]:
    # Without the value, which is a secret.
    return "must be a string that is not empty, or None" if _check_optional_text(value) else None


def _is_header_text(text: object) -> bool:
    return isinstance(text, str) and text.isprintable() and text.isascii()


def _check_credential(value: Any) -> Optional[str]:
    # Without the value, which is a secret.
    is_valid = value is None or _is_header_text(value)
    return None if is_valid else "must be printable ASCII text without line breaks"


def _check_base_url(value: Any) -> Optional[str]:
    if value == "local":
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # It is not a URL, or its port is not a number.
            url, query = urlsplit(value), parse_qsl(urlsplit(value).query, keep_blank_values=True)
            is_http = url.scheme in ("http", "https") and url.hostname and url.port != 0
            if is_http and not url.fragment and len(dict(query)) == len(query):
                return None
        # Without user, password and query, which may be secrets.
        value = re.sub(r"^(\w+://)?.*@", r"\1***@", re.sub(r"[?#].*", "?***", value))
    return (
        "must be a URL such as https://host/prefix, or 'local' for the embedded server (argument base_url or"
        f" environment variable TINKER_BASE_URL), got {value!r}"
    )


def _check_strategies(value: Any) -> Optional[str]:
    if isinstance(value, Mapping) and all(
        name in RETRY_POLICIES and isinstance(given, RetryStrategies) for name, given in value.items()
    ):
        return None
    return f"must be a mapping of policies ({', '.join(RETRY_POLICIES)}) to RetryStrategies, got {value!r}"


def _check_proxies(value: Any) -> Optional[str]:
    if value is None or (isinstance(value, Mapping) and all(isinstance(address, str) for address in value.values())):
        return None
    # Without the value, which may have a password.
    return "must be a mapping of schemes to URLs, such as {'https': 'http://proxy:3128'}"


def _check_verify(value: Any) -> Optional[str]:
    if isinstance(value, str) and value != "system" and not Path(value).exists():
        return f"must be a CA bundle, 'system', True or False; there is no such file {value!r}"
    return None


def _check_certificate(value: Any) -> Optional[str]:
    for path in (value,) if isinstance(value, str) else value or ():
        if not Path(path).exists():
            return f"must be a file or a pair of files; there is no such file {path!r}"
    return None


def _check_headers(value: Any) -> Optional[str]:
    for name, text in dict(value).items():
        if not (_is_header_text(name) and _is_header_text(text)):
            return f"must have printable ASCII names and values, which {name!r} or its value is not"
    return None


def _check_query(value: Any) -> Optional[str]:
    for name, given in dict(value).items():
        values = given if isinstance(given, (list, tuple)) else [given]
        if not isinstance(name, str) or not all(isinstance(one, (str, int, float)) for one in values):
            return f"must map strings to strings, numbers, bools or lists of them, which {name!r} does not"
    return None


def _setting(default: Any, check: Check, *, secret: bool = False) -> Any:
    """Declare a setting with its default and check.

    A secret, or an object of this process only, is not part of ``repr`` and not sent to other processes.
    """
    return field(default=default, repr=not secret, metadata={"check": check, "secret": secret})


@dataclass(frozen=True)
class ThrottleLimits:
    """The limits of the sampling throttle. Times are seconds, sizes are bytes, rates are samples per second.

    Raises:
        ConfigError: A value is out of range.
    """

    #: Most samples being dispatched.
    max_dispatches: int = _setting(400, _check_count)
    #: Most samples being dispatched within ``throttle_memory`` of the end of the last requested backoff.
    max_dispatches_after_backoff: int = _setting(10, _check_count)
    #: Estimated bytes of samples being dispatched. The server's limit replaces the default.
    dispatch_bytes: int = _setting(Preset(5 * 1024 * 1024), _check_count)
    #: Factor for estimated bytes within ``throttle_memory`` of a backoff.
    bytes_factor_after_backoff: int = _setting(20, _check_count)
    #: How long the lower limits remain in force after the end of a backoff.
    throttle_memory: float = _setting(10.0, _check_not_negative)
    #: Up to this estimate a 429 delays a sample for ``small_backoff``, above it for ``large_backoff``.
    small_payload_bytes: int = _setting(128 * 1024, _check_size)
    #: Delay after a 429 of a small sample.
    small_backoff: float = _setting(1.0, _check_positive)
    #: Delay after a 429 of a large sample.
    large_backoff: float = _setting(5.0, _check_positive)
    #: Rate of re-entry after the stop that begins an episode of 429s.
    pace_start: float = _setting(20.0, _check_positive)
    #: Time in which the rate of re-entry doubles.
    pace_doubling: float = _setting(0.25, _check_positive)
    #: Factor that a 429 applies to the rate accepted so far.
    pace_reduction: float = _setting(0.9, _check_share)
    #: The least rate.
    pace_floor: float = _setting(1.0, _check_positive)
    #: Time after a reduction in which the rate grows by a factor e, most of it at the end.
    pace_growth: float = _setting(5.0, _check_positive)
    #: The same after the first reduction of an episode, whose measurement may include a full bucket.
    pace_search: float = _setting(2.0, _check_positive)
    #: The pace ends when it has delayed no sample for this long.
    pace_memory: float = _setting(10.0, _check_positive)

    def __post_init__(self) -> None:
        for one in fields(self):
            check: Optional[Check] = one.metadata.get("check")
            problem = None if check is None else check(getattr(self, one.name))
            if problem is not None:
                raise ConfigError(f"{one.name} {problem}")


@dataclass(frozen=True)
class Config(ThrottleLimits):
    """Every setting of a client, those of the throttle included. Times are seconds, sizes are bytes. Immutable.

    :meth:`from_env` also reads the environment; the constructor reads its arguments only. Pass settings by name.
    ``repr`` shows no key, cookie or proxy password.

    Raises:
        ConfigError: A value is invalid; the message has the setting and the value.
    """

    #: Sent as ``X-API-Key``. Environment: TINKER_API_KEY.
    api_key: Optional[str] = _setting(None, _check_credential, secret=True)
    #: A shell command that prints the key. It runs whenever a key is exchanged for a token. Environment:
    #: TINKER_CREDENTIAL_CMD.
    credential_command: Optional[str] = _setting(None, _check_secret_text, secret=True)
    #: The project of the session, on servers that have projects. Environment: TINKER_PROJECT_ID.
    project_id: Optional[str] = _setting(None, _check_optional_text)
    #: URL of the server; "local" starts the embedded server. Environment: TINKER_BASE_URL. User and password in it
    #: become basic authentication in ``headers``, and a query is added to ``default_query``. Neither is ever shown.
    base_url: str = _setting(DEFAULT_BASE_URL, _check_base_url)
    #: Labels of the session, sorted. Environment: TINKER_TAGS, separated by commas.
    tags: Tuple[str, ...] = _setting((), _check_tags)
    #: Sent when a session is created. Hosted servers reject versions that they no longer support.
    sdk_version: str = _setting("0.7.0", _check_text)

    #: Protocol version: "0.7" (JSON), "0.38" (protobuf and its other features), or "auto", which negotiates it.
    #: Environment: TINKEX_SYNC_PROTOCOL.
    protocol: str = _setting("auto", _check_protocol)
    #: How long calls wait while the server requires payment (402), unless the server has a limit.
    billing_pause: float = _setting(3600.0, _check_not_negative)

    #: Deadline of every blocking call without ``timeout=``; None: no limit. Environment: TINKEX_SYNC_TIMEOUT.
    timeout: Optional[float] = _setting(None, _check_timeout)
    #: Longest time for opening a connection.
    connect_timeout: float = _setting(5.0, _check_wait)
    #: Longest silence before a response; some servers do the work inside the POST.
    read_timeout: float = _setting(300.0, _check_wait)
    #: Longest silence before the response to a sample or a training operation, which servers accept before they carry
    #: them out; at most ``read_timeout``. The first request without a response is followed by a second one.
    submit_timeout: float = _setting(60.0, _check_wait)
    #: Longest silence before the response to a poll. It is longer than any server holds a poll, so that no poll is
    #: abandoned.
    poll_timeout: float = _setting(660.0, _check_wait)
    #: First contact gives up after this long on refused connections, DNS errors and TLS errors.
    first_contact_timeout: float = _setting(15.0, _check_positive)
    #: How long leaving ``with`` waits until submitted calls are sent.
    drain: float = _setting(30.0, _check_not_negative)
    #: Time between two heartbeats, which keep the session alive.
    heartbeat_interval: float = _setting(10.0, _check_wait)
    #: Longest time for the response to a heartbeat.
    heartbeat_timeout: float = _setting(10.0, _check_wait)
    #: Retries of the creation of sessions and models.
    max_retries: int = _setting(10, _check_size)
    #: How long other requests are retried.
    retry_for: float = _setting(300.0, _check_positive)
    #: A poll gives up after this long without a valid response.
    poll_retry_for: float = _setting(900.0, _check_positive)
    #: A sample fails when no sample of its client has succeeded for this long.
    progress_timeout: float = _setting(7200.0, _check_positive)
    #: Tenacity strategies by name of the retry policy, of :data:`RETRY_POLICIES`.
    retry_strategies: Mapping[str, RetryStrategies] = field(default_factory=dict, metadata={"check": _check_strategies})

    #: Most datums of one chunk. The server's limit replaces the default.
    max_chunk_datums: int = _setting(Preset(1024), _check_count)
    #: Most estimated bytes of one chunk. The server's limit replaces the default.
    max_chunk_bytes: int = _setting(Preset(5_000_000), _check_count)
    #: Threads that send submitted samples.
    dispatchers: int = _setting(4, _check_count)
    #: Most polls of submitted calls at the same time, each in a thread of its own.
    max_polls: int = _setting(1000, _check_count)
    #: Connections that are kept open.
    pool_size: int = _setting(1400, _check_count)
    #: Most bytes of a response after decompression. A larger response, or a small one that decompresses to more than
    #: 64 MiB and 200 times its size, raises APIResponseValidationError.
    max_response_bytes: int = _setting(1 << 30, _check_count)

    #: Proxy URL by scheme; None: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the environment.
    proxies: Optional[Mapping[str, str]] = _setting(None, _check_proxies, secret=True)
    #: True: the certificate bundle of requests (or REQUESTS_CA_BUNDLE, SSL_CERT_FILE). "system": the operating
    #: system's store. A path: this bundle. False: certificates are not verified.
    verify: Union[bool, str] = _setting(True, _check_verify)
    #: A file with certificate and key, or a pair of files.
    client_certificate: Union[None, str, Tuple[str, str]] = _setting(None, _check_certificate, secret=True)
    #: Sent with every request.
    headers: Mapping[str, str] = _setting((), _check_headers, secret=True)
    #: Added to the query of every request. Several values of one name are joined by commas.
    default_query: Mapping[str, Any] = _setting((), _check_query, secret=True)
    #: Id of a service token of Cloudflare Access. Environment: CLOUDFLARE_ACCESS_CLIENT_ID.
    cloudflare_access_client_id: Optional[str] = _setting(None, _check_credential, secret=True)
    #: Secret of that token. Environment: CLOUDFLARE_ACCESS_CLIENT_SECRET.
    cloudflare_access_client_secret: Optional[str] = _setting(None, _check_credential, secret=True)
    #: Returns the ``requests.Session`` to use. Its auth, hooks and adapters are kept.
    session_factory: Optional[Callable[[], Any]] = _setting(None, _check_factory, secret=True)
    #: Whether pickled clients contain the API key and other secrets. Otherwise they read the environment.
    pickle_credentials: bool = _setting(False, _check_flag)
    #: Send usage events to the server. Environment: TINKER_TELEMETRY.
    telemetry: bool = _setting(False, _check_flag)
    #: A hook of a plugin that has not returned after this many seconds is left behind, and the plugin is not called
    #: again. Each hook then runs in a thread of its own, which takes about 0.1 ms. None: no limit; a hook that blocks
    #: blocks its call, and is logged after 5 s.
    hook_timeout: Optional[float] = _setting(None, _check_timeout)
    #: Source of time of every wait, such as ``ScaledClock(100)`` for tests.
    clock: Clock = field(default_factory=Clock, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Copies, because callers may change the objects that they pass.
        url = urlsplit(self.base_url)
        headers, query = dict(self.headers), {**dict(parse_qsl(url.query, True)), **dict(self.default_query)}
        if "@" in url.netloc:
            credentials = f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
        if url.query or "@" in url.netloc:
            public = url._replace(netloc=url.netloc.rpartition("@")[2], query="").geturl()
            object.__setattr__(self, "base_url", public)
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "default_query", query)
        object.__setattr__(self, "tags", tuple(sorted(set(self.tags))))

    @property
    def throttle(self) -> ThrottleLimits:
        """The limits of the throttle alone."""
        return ThrottleLimits(**{one.name: getattr(self, one.name) for one in fields(ThrottleLimits)})

    @classmethod
    def from_env(cls, **settings: Any) -> Config:
        """Return the given settings, completed from the environment. An argument of None counts as not given.

        Raises:
            ConfigError: A setting is unknown or invalid; the message has its name.
        """
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"unknown setting {unknown[0]!r}; the settings are {', '.join(sorted(known))}")
        given = {name: value for name, value in settings.items() if value is not None}
        environment = _read_environment(name for name in ENVIRONMENT if name not in given)
        try:
            return cls(**{**environment, **given})
        except ConfigError as error:
            name = str(error).partition(" ")[0]
            variable = ENVIRONMENT[name][0] if name in environment else ""
            if variable and variable not in str(error):
                raise ConfigError(f"{error} (environment variable {variable})") from None
            raise

    def for_pickle(self) -> Config:
        """Return a copy without secrets, unless ``pickle_credentials`` is set."""
        if self.pickle_credentials or self.api_key == LOCAL_KEY:
            return self
        return self.replace(**{one.name: one.default for one in fields(self) if one.metadata.get("secret")})

    def with_credentials_from_env(self) -> Config:
        """Return a copy with the secrets that this process's environment has."""
        found = Config.from_env()
        names = [name for name in ENVIRONMENT if name in _secrets()]
        if found.base_url == self.base_url:
            names += ["headers", "default_query"]
        return self.replace(**{name: getattr(found, name) for name in names})

    def replace(self, **changes: Any) -> Config:
        """Return a copy with some settings changed."""
        return replace(self, **changes)


def _secrets() -> Tuple[str, ...]:
    return tuple(one.name for one in fields(Config) if one.metadata.get("secret"))


# The environment

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


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
    raise ValueError("must be 1 or 0")


def _seconds(text: str) -> Optional[float]:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise ValueError("must be a number of seconds > 0")
    return value


#: Setting: its variable, and the function that reads the text; None counts as not set.
ENVIRONMENT: Dict[str, Tuple[str, Callable[[str], Any]]] = {
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


def _read_environment(names: Iterable[str]) -> Dict[str, Any]:
    """Return the settings among ``names`` that the environment has."""
    found = {}
    for name in names:
        variable, read = ENVIRONMENT[name]
        text = os.environ.get(variable)
        if text is None:
            continue
        try:
            value = read(text)
        except ValueError as error:
            raise ConfigError(f"environment variable {variable} {error}, got {text!r}") from None
        if value is not None:
            found[name] = value
    return found
