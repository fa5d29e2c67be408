"""Tokens exchanged for the API key, where a server asks for that: obtained, renewed in time, replaced when refused.

A token stands in the place of the key (``X-API-Key``). The exchange itself, ``POST /api/v1/auth/token``, always carries
the key. Tokens are kept nowhere but here: not in logs, reprs, pickles or hooks.
"""

from __future__ import annotations

import base64
import binascii
import concurrent.futures
import json
import logging
import random
import subprocess
import time
import weakref
from typing import Any, Callable, Dict, Optional

from ..concurrency.clock import Clock, remaining
from ..concurrency.primitives import Event, Lock
from ..concurrency.timer import Timer
from ..errors import APIError, AuthenticationError, ClosedError, ConfigError, DeadlineExceeded, TinkexError

__all__ = ["Tokens", "check_credential", "claims", "printed", "refused_as_invalid"]

_log = logging.getLogger(__name__)

#: A token with so many seconds left or fewer is renewed before it is used.
_NEAR_END = 60.0
#: Seconds until a renewal in the background that failed, or whose time cannot be read, is tried again.
_AGAIN = 60.0
#: A refused renewal in the background is not repeated once so few seconds are left.
_LAST_REFUSAL = 120.0

#: Seconds a credential command may take; it may ask a person.
_COMMAND_WITHIN = 120.0

#: Exchanges the key for a token; its deadline is on the client's clock.
Exchange = Callable[[Optional[float]], str]


def claims(token: str) -> Dict[str, Any]:
    """The middle part of a JWT, unverified; {} if it cannot be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}


def _instant(token: str, claim: str) -> Optional[float]:
    value = claims(token).get(claim)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def printed(command: str) -> str:
    """What a credential command prints.

    Raises:
        ConfigError: it failed, or printed nothing; the text shows the end of what it said, not what it printed.
    """
    try:
        done = subprocess.run(  # noqa: S602 - it is the user's own, and meant for a shell
            command, shell=True, capture_output=True, text=True, timeout=_COMMAND_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the credential command took longer than {_COMMAND_WITHIN:.0f} s") from None
    if done.returncode or not done.stdout.strip():
        why = done.stderr.strip()[-200:] or "it printed nothing"
        raise ConfigError(f"the credential command failed with status {done.returncode}: {why}")
    return done.stdout.strip()


def check_credential(key: Optional[str]) -> None:
    """Refuse a key that is a token whose time is over, before anything is sent.

    Raises:
        ConfigError: it is.
    """
    end = _instant(key or "", "exp")
    if end is not None and end <= time.time():
        raise ConfigError(
            "the API key is a token whose time is over: get a new one (api_key or TINKER_API_KEY)"
        )


def refused_as_invalid(error: AuthenticationError) -> bool:
    """Whether a 401 is about the token, so that a fresh one may do better."""
    return 'error="invalid_token"' in error.headers.get("www-authenticate", "")


class Tokens:
    """The token of one session, shared by its threads.

    Invariants: at most one exchange is running, and whoever needs its outcome waits for it; no lock is held
    meanwhile. ``_token`` is the newest one.
    """

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        timer: Timer,
        submit: Callable[[Callable[[], None]], object],
        *,
        now: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._timer = timer
        self._submit = submit
        # Ends of tokens are wall-clock times.
        self._now = now
        self._draw = draw
        self._lock = Lock()
        self._token: Optional[str] = None  # guarded by _lock
        self._running: Optional[concurrent.futures.Future[str]] = None  # guarded by _lock
        self._planned = False  # guarded by _lock; a renewal in the background will come

    def __repr__(self) -> str:
        return "<Tokens>"

    def current(self, deadline: Optional[float] = None) -> str:
        """A token to send now; exchanges first if there is none, or if it ends within a minute.

        Raises:
            AuthenticationError: the key was refused.
            APIError: the exchange failed, and the old token has ended.
            DeadlineExceeded, ClosedError: the wait ended.
        """
        with self._lock:
            token = self._token
        if token is not None and self._left(token) > _NEAR_END:
            return token
        try:
            return self._renewed(token, deadline)
        except AuthenticationError:
            raise
        except APIError:
            if token is not None and self._left(token) > 0:
                return token
            raise

    def replaced(self, refused: str, deadline: Optional[float] = None) -> str:
        """Another token than the one a server has refused; one exchange, however many calls were refused."""
        return self._renewed(refused, deadline)

    def _left(self, token: str) -> float:
        end = _instant(token, "exp")
        return 0.0 if end is None else end - self._now()

    def _renewed(self, stale: Optional[str], deadline: Optional[float]) -> str:
        with self._lock:
            if self._token is not None and self._token != stale:
                return self._token
            running, mine = self._running, self._running is None
            if running is None:
                running = self._running = concurrent.futures.Future()
        if mine:
            self._obtain(running, deadline)
        else:
            self._await(running, deadline)
        return running.result()

    def _obtain(self, running: concurrent.futures.Future[str], deadline: Optional[float]) -> None:
        try:
            token = self._exchange(deadline)
        except BaseException as error:
            with self._lock:
                self._running = None
            running.set_exception(error)
            return
        with self._lock:
            self._token, self._running = token, None
            plan, self._planned = not self._planned, True
        running.set_result(token)
        if plan:
            self._plan(self._pause(token))

    def _await(self, running: concurrent.futures.Future[str], deadline: Optional[float]) -> None:
        done = Event()
        running.add_done_callback(lambda _: done.set())
        # The one who exchanges ends with the client; that wakes us too.
        if not self._clock.wait(done, remaining(self._clock, deadline)):
            raise DeadlineExceeded(
                "the timeout ran out while the API key was exchanged for a token", phase="sending", sent="no"
            )

    # Renewal in the background, so that no call has to wait for it

    def _pause(self, token: str) -> float:
        end, start = _instant(token, "exp"), _instant(token, "iat")
        if end is None or start is None or end <= start:
            return _AGAIN
        return (end - start) * self._draw(0.45, 0.55)

    def _plan(self, pause: float) -> None:
        # Weakly: a timer must not keep a client that nobody uses.
        own, submit = weakref.WeakMethod(self._renew), self._submit

        def due() -> None:
            renew = own()
            if renew is not None:
                submit(renew)

        self._timer.at(self._clock.time() + pause, due)

    def _renew(self) -> None:
        with self._lock:
            token = self._token
        try:
            fresh = self._renewed(token, None)
        except ClosedError:
            return
        except (TinkexError, OSError) as error:
            left = self._left(token or "")
            if isinstance(error, AuthenticationError) and left < _LAST_REFUSAL:
                # The next call that needs a token says so to its caller.
                with self._lock:
                    self._planned = False
                return
            _log.debug("The token could not be renewed: %s", type(error).__name__)
            self._plan(_AGAIN)
        else:
            self._plan(self._pause(fresh))
