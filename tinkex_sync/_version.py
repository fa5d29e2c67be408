"""The version of this package. Packaging and the code both read it here."""

__version__ = "2026.11.0"
