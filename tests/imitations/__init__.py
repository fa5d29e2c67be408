"""Small real HTTP servers that imitate the servers of the field, for the tests of the client."""

from .columns import COLUMNS, HATCHERY, NEITHER, SKYRL, TUFT, Column
from .server import TRAINING, Imitation

__all__ = ["COLUMNS", "HATCHERY", "NEITHER", "SKYRL", "TRAINING", "TUFT", "Column", "Imitation"]
