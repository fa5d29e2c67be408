"""Small HTTP servers that behave like known servers of the Tinker API, for the tests of the client."""

from .client_helpers import ADAM, PARAMS, client, datum, datums, prompt, training
from .imitation import Imitation
from .poll_results import TRAINING
from .profiles import EMBEDDED, HATCHERY, LATE, NEITHER, PROFILES, SKYRL, STRICT, TUFT, TUFT_0_38, ServerProfile

__all__ = [
    "ADAM",
    "PROFILES",
    "EMBEDDED",
    "HATCHERY",
    "LATE",
    "NEITHER",
    "PARAMS",
    "SKYRL",
    "STRICT",
    "TRAINING",
    "TUFT",
    "TUFT_0_38",
    "ServerProfile",
    "Imitation",
    "client",
    "datum",
    "datums",
    "prompt",
    "training",
]
