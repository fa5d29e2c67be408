"""Credentials of requests: the user's API key, the output of a command, or a token exchanged for either.

A token replaces the key in the header ``X-API-Key``. The exchange itself (``POST /api/v1/auth/token``) always carries
the key. Tokens are kept in this module only: not in logs, reprs, pickles or hooks.
"""

from __future__ import annotations

import base64
import concurrent.futures
import json
import random
import subprocess
import time
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

from ..concurrency.clock import Clock, remaining
from ..concurrency.primitives import Event, Lock
from ..concurrency.timer import Timer
from ..config import Config
from ..errors import APIError, AuthenticationError, ClosedError, ConfigError, DeadlineExceeded, TinkexError
from ..logs import get_logger
from ..protocol.negotiation import Capabilities

_log = get_logger(__name__)

#: A token that is valid for at most this many seconds is renewed before it is used.
_NEAR_END = 60.0
#: Seconds until the next background renewal if one failed, or if the token contains no readable times.
_RENEW_AGAIN = 60.0
#: A refused background renewal is not repeated if the token is valid for fewer seconds than this.
_LAST_REFUSAL = 120.0
#: Longest run of a credential command in seconds; it may prompt the user.
_COMMAND_TIMEOUT = 120.0

#: Exchanges the key for a token, until a deadline on the client's clock.
ExchangeKey = Callable[[Optional[float]], str]
#: Runs a function in another thread.
RunInBackground = Callable[[Callable[[], None]], object]


def read_claims(token: str) -> Dict[str, Any]:
    """Return the claims of a JWT, without verification; empty if it is not a readable JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _read_time(token: str, claim: str) -> Optional[float]:
    value = read_claims(token).get(claim)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def check_credential(key: Optional[str]) -> None:
    """Check, before anything is sent, that the API key is not an expired token.

    Raises:
        ConfigError: It is.
    """
    end = _read_time(key or "", "exp")
    if end is not None and end <= time.time():
        raise ConfigError("the API key is an expired token: get a new one (api_key or TINKER_API_KEY)")


def _run_command(command: str) -> str:
    """Return the output of a credential command.

    Raises:
        ConfigError: It failed or printed nothing. The message contains the end of its standard error only.
    """
    try:
        done = subprocess.run(  # noqa: S602 - the command is the user's own, and meant for a shell
            command, shell=True, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the credential command took longer than {_COMMAND_TIMEOUT:.0f} s") from None
    if done.returncode or not done.stdout.strip():
        reason = done.stderr.strip()[-200:] or "it printed nothing"
        raise ConfigError(f"the credential command failed with status {done.returncode}: {reason}")
    return done.stdout.strip()


class Credentials:
    """Chooses the credential of each request of one session. Thread-safe.

    Until a server requires tokens, the user's API key is sent.
    """

    def __init__(self, config: Config, timer: Timer) -> None:
        self._config = config
        self._timer = timer
        #: None while the server does not require tokens.
        self.tokens: Optional[AuthTokens] = None
        #: Whether the output of the user's command is exchanged although there may be a key.
        self._uses_command = False

    def apply(self, capabilities: Capabilities, exchange: ExchangeKey, run_in_background: RunInBackground) -> None:
        """Use tokens if the server requires them.

        Raises:
            ConfigError: The server requires an API key, and there is only a credential command.
        """
        key = self._config.api_key
        if capabilities.exchanges_api_key:
            # A key that is itself a token identifies its user, even if the server prefers the command.
            is_token = key is not None and bool(read_claims(key))
            self._uses_command = capabilities.prefers_credential_command and not is_token
            self.tokens = AuthTokens(exchange, self._config.clock, self._timer, run_in_background)
        elif key is None:
            raise ConfigError(
                "this server requires an API key, and a credential command is only used by servers that exchange"
                " keys for tokens: give api_key= or set TINKER_API_KEY"
            )

    def key(self, uses_key: bool, deadline: Optional[float]) -> Optional[str]:
        """Return the value of ``X-API-Key`` of a request; None: the user's key, a default header of the transport.

        Args:
            uses_key: Whether the endpoint requires the key itself instead of a token.
            deadline: Time of the clock at which an exchange ends.
        """
        if not uses_key:
            return None if self.tokens is None else self.tokens.current(deadline)
        if not self._uses_command and self._config.api_key is not None:
            return None
        command = self._config.credential_command
        if command is None:
            raise ConfigError(
                "the server requires the output of a credential command: set credential_command= or"
                " TINKER_CREDENTIAL_CMD"
            )
        return _run_command(command)

    def renewed_key(
        self, refusal: AuthenticationError, key: Optional[str], uses_key: bool, deadline: Optional[float]
    ) -> Optional[str]:
        """Return another token after a 401; None if the response is not about the token.

        Args:
            refusal: The 401 as an error.
            key: The token that was sent; None: none was.
            uses_key, deadline: As for :meth:`key`.
        """
        is_invalid = 'error="invalid_token"' in refusal.headers.get("www-authenticate", "")
        if uses_key or key is None or self.tokens is None or not is_invalid:
            return None
        return self.tokens.replaced(key, deadline)


@dataclass(eq=False, repr=False)
class AuthTokens:
    """The token of one session, shared by its threads.

    Invariants: at most one exchange is running, and every thread that needs its result waits for it. No lock is held
    meanwhile. ``_token`` is the newest token. The representation does not contain it.
    """

    exchange: ExchangeKey
    clock: Clock
    timer: Timer
    run_in_background: RunInBackground
    #: Returns a random number between two.
    draw: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._token: Optional[str] = None  # guarded by _lock
        self._running: Optional[concurrent.futures.Future[str]] = None  # guarded by _lock
        self._is_planned = False  # guarded by _lock; whether a background renewal is scheduled

    def current(self, deadline: Optional[float] = None) -> str:
        """Return a token that can be sent now. If there is none, or it expires within a minute, it is renewed first.

        Raises:
            AuthenticationError: The server refused the key.
            APIError: The exchange failed, and the old token has expired.
            DeadlineExceeded, ClosedError: The wait ended.
        """
        with self._lock:
            token = self._token
        if token is not None and self._valid_for(token) > _NEAR_END:
            return token
        try:
            return self.replaced(token, deadline)
        except APIError as error:
            if isinstance(error, AuthenticationError) or token is None or self._valid_for(token) <= 0:
                raise
            return token

    def replaced(self, stale: Optional[str], deadline: Optional[float] = None) -> str:
        """Return another token than ``stale``; one exchange serves all threads that need it."""
        with self._lock:
            if self._token is not None and self._token != stale:
                return self._token
            is_owner = self._running is None
            running = self._running = self._running or concurrent.futures.Future()
        if is_owner:
            self._obtain(running, deadline)
        done = Event()
        running.add_done_callback(lambda _: done.set())
        # Closing the client ends the exchange, and that wakes this thread too.
        if not self.clock.wait(done, remaining(self.clock, deadline)):
            raise DeadlineExceeded(
                "the timeout ran out while the API key was exchanged for a token", phase="sending", sent="no"
            )
        return running.result()

    def _valid_for(self, token: str) -> float:
        end = _read_time(token, "exp")
        # The times in tokens are wall-clock times.
        return 0.0 if end is None else end - time.time()

    def _obtain(self, running: concurrent.futures.Future[str], deadline: Optional[float]) -> None:
        try:
            token = self.exchange(deadline)
        except BaseException as error:
            with self._lock:
                self._running = None
            running.set_exception(error)
            return
        with self._lock:
            self._token, self._running = token, None
            needs_plan, self._is_planned = not self._is_planned, True
        running.set_result(token)
        if needs_plan:
            self._plan(self._renewal_delay(token))

    # Renewal in the background, so that no call has to wait for it

    def _renewal_delay(self, token: str) -> float:
        end, start = _read_time(token, "exp"), _read_time(token, "iat")
        if end is None or start is None or end <= start:
            return _RENEW_AGAIN
        return (end - start) * self.draw(0.45, 0.55)

    def _plan(self, delay: float) -> None:
        # The timer must not keep a client that is no longer used.
        ref, run_in_background = weakref.WeakMethod(self._renew), self.run_in_background

        def submit() -> None:
            renew = ref()
            if renew is not None:
                run_in_background(renew)

        self.timer.at(self.clock.time() + delay, submit)

    def _renew(self) -> None:
        with self._lock:
            token = self._token
        delay = _RENEW_AGAIN
        try:
            delay = self._renewal_delay(self.replaced(token))
        except ClosedError:
            return
        except (TinkexError, OSError) as error:
            if isinstance(error, AuthenticationError) and self._valid_for(token or "") < _LAST_REFUSAL:
                # The next call that needs a token raises this error.
                with self._lock:
                    self._is_planned = False
                return
            _log.debug("Renewing the token failed: error=%s", type(error).__name__)
        self._plan(delay)
