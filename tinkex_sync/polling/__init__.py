"""Futures of the server: polling them until they have a result."""
