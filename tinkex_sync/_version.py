"""The version, where packaging and code both read it."""

__version__ = "0.7.0"
