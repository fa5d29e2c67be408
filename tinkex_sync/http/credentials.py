"""Which key goes out with a request: the user's own, what a command prints, or a token exchanged for it."""

from __future__ import annotations

from typing import Callable, Optional

from ..concurrency.clock import Clock
from ..concurrency.timer import Timer
from ..config import Config
from ..errors import AuthenticationError, ConfigError
from ..protocol.negotiation import Capabilities
from .auth import Exchange, Tokens, claims, printed, refused_as_invalid

__all__ = ["Credentials"]


class Credentials:
    """The credentials of one session. Until a server announces otherwise, the user's key goes out as it is."""

    def __init__(self, config: Config, clock: Clock, timer: Timer) -> None:
        self._config = config
        self._clock = clock
        self._timer = timer
        #: Where the server wants the key exchanged.
        self.tokens: Optional[Tokens] = None
        #: What is exchanged is what the user's command prints, although there may be a key.
        self._wants_command = False

    def adopt(
        self,
        capabilities: Capabilities,
        exchange: Exchange,
        submit: Callable[[Callable[[], None]], object],
    ) -> None:
        """Do as the server announces.

        Raises:
            ConfigError: it takes keys as they are, and there is none, only a command.
        """
        key = self._config.api_key
        if capabilities.exchanges_api_key:
            # A key that is itself a token stands for its user, whatever the server prefers.
            token = key is not None and bool(claims(key))
            self._wants_command = capabilities.prefers_credential_command and not token
            self.tokens = Tokens(exchange, self._clock, self._timer, submit)
        elif key is None:
            raise ConfigError(
                "this server takes the API key as it is, and a credential command is for those that exchange it:"
                " give api_key= or set TINKER_API_KEY"
            )

    def key(self, own: bool, deadline: Optional[float]) -> Optional[str]:
        """What to send as ``X-API-Key``; None: the user's key, which goes out anyway.

        Args:
            own: The request takes no token.
        """
        if not own:
            return None if self.tokens is None else self.tokens.current(deadline)
        if not self._wants_command and self._config.api_key is not None:
            return None
        command = self._config.credential_command
        if command is None:
            raise ConfigError(
                "the server wants what a credential command prints: set credential_command= or"
                " TINKER_CREDENTIAL_CMD"
            )
        return printed(command)

    def another(
        self, refusal: AuthenticationError, key: Optional[str], own: bool, deadline: Optional[float]
    ) -> Optional[str]:
        """After a 401: what to send instead, once; None: that was final."""
        if own or key is None or self.tokens is None or not refused_as_invalid(refusal):
            return None
        return self.tokens.replaced(key, deadline)
