"""Polling of server futures until they have a result, and the queue states in the responses."""
