"""Small real HTTP servers that imitate the servers of the field, for the tests of the client."""

from .columns import COLUMNS, EMBEDDED, HATCHERY, LATE, NEITHER, SKYRL, STRICT, TUFT, TUFT_TODAY, Column
from .driving import ADAM, PARAMS, client, datum, datums, prompt, training
from .results import TRAINING
from .server import Imitation

__all__ = [
    "ADAM",
    "COLUMNS",
    "EMBEDDED",
    "HATCHERY",
    "LATE",
    "NEITHER",
    "PARAMS",
    "SKYRL",
    "STRICT",
    "TRAINING",
    "TUFT",
    "TUFT_TODAY",
    "Column",
    "Imitation",
    "client",
    "datum",
    "datums",
    "prompt",
    "training",
]
