"""Clients that outlive a fork and a pickle: they open connections of their own at first use."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from ..concurrency.primitives import Lock
from ..config import Config
from ..errors import ConfigError
from ..plugins.queue_log import QueueLog
from ..plugins.registry import Observers
from ..protocol.negotiation import Known
from ..session import Session

__all__ = ["Recipe", "first_seq_id", "one_rebuilds", "rebuilt_session"]


@dataclass(frozen=True)
class Recipe:
    """What it takes to join a session from another process."""

    config: Config
    session_id: str
    #: What is known of the server, so that the other process need not ask.
    known: Known

    def for_pickle(self) -> Recipe:
        """Without credentials, which the other process takes from its own environment, unless asked otherwise."""
        return Recipe(self.config.for_pickle(), self.session_id, self.known)


_lock = Lock()
#: Kept although no client uses them just now, because pool workers unpickle a client anew for every task.
_sessions: Dict[Tuple[str, str, Optional[str]], Session] = {}  # guarded by _lock
_MOST_SESSIONS = 8


def _after_fork() -> None:
    global _lock
    # Another thread of the parent may have held it.
    _lock = Lock()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def one_rebuilds() -> Lock:
    """The lock under which a client takes its rebuilt session up; never held for more than an assignment or two."""
    return _lock


def rebuilt_session(recipe: Recipe) -> Session:
    """This process's own session object for a session made elsewhere; its clients share one.

    It creates nothing on the server, beats for the session, and loads plugins by entry point only.

    Raises:
        ConfigError: there is no API key, in the recipe or in the environment.
    """
    config = recipe.config
    if config.api_key is None and config.credential_command is None:
        config = config.with_credentials_from_env()
    if config.api_key is None and config.credential_command is None:
        raise ConfigError(
            "this client came from another process without its API key: set TINKER_API_KEY here, or make it with"
            " Config(pickle_credentials=True)"
        )
    key = (config.base_url, recipe.session_id, config.api_key)
    with _lock:
        session = _sessions.pop(key, None)
        if session is None or session.closing.is_set():
            observers = Observers(builtin=(QueueLog(config.clock),), clock=config.clock)
            session = Session(config, observers, owned=False)
            session.take_over(recipe.known)
            session.join(recipe.session_id)
        _sessions[key] = session
        while len(_sessions) > _MOST_SESSIONS:
            # Those still in use live on in their clients; the oldest go first.
            del _sessions[next(iter(_sessions))]
        return session


def first_seq_id() -> int:
    """Where a rebuilt sampler begins to count: two processes must never repeat a number of one session."""
    # Not the shared generator: a forked child would continue its parent's series.
    return random.SystemRandom().randrange(2**32) * 2**20
