"""The options with which a server is started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from .faults import Faults
from .server_config import ServerConfig
from .strictness import Strictness, strictness_of

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """The options with which a server is started. They can be passed to a child process as JSON."""

    host: str = "127.0.0.1"
    #: 0: any free port.
    port: int = 0
    #: Directory of checkpoints and of other data that must survive a restart. None: a temporary directory, which is
    #: removed when the server ends.
    data: Optional[str] = None
    #: The key that clients must send. None: no key is required.
    api_key: Optional[str] = None
    #: Further names of base models. The smallest model replaces each of them.
    models: Tuple[str, ...] = ()
    #: Seconds for which a poll for a result is held at most.
    hold: float = 45.0
    faults: Faults = field(default_factory=Faults)
    config: ServerConfig = field(default_factory=ServerConfig)
    #: Seconds without a request or a heartbeat after which the models of a session are unloaded.
    session_lifetime: float = 3600.0
    #: The name of another server whose rules apply, a key of ``strictness.LIKE``.
    like: Optional[str] = None

    def check(self) -> None:
        """Check the ranges of port, hold and session lifetime, and the name in ``like``.

        Raises:
            ValueError: One of them is out of range.
        """
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if not self.hold >= 0:
            raise ValueError(f"hold must be seconds, 0 or more, not {self.hold}")
        if not self.session_lifetime > 0:
            raise ValueError(f"session_lifetime must be seconds, more than 0, not {self.session_lifetime}")

        strictness_of(self.like)

    @property
    def strictness(self) -> Strictness:
        """The rules of the server in ``like``."""
        return strictness_of(self.like)

    def to_dict(self) -> Dict[str, Any]:
        """Return the options as a dict that can be encoded as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ServerOptions:
        """Make the options from the result of :meth:`to_dict`.

        Raises:
            ValueError: A value is out of range.
        """
        faults, config = Faults.from_dict(values["faults"]), ServerConfig(**values["config"])
        return cls(**{**values, "models": tuple(values["models"]), "faults": faults, "config": config})
