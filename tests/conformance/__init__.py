"""Replays of the recorded behaviour of the official SDK; see ``test_vectors``."""
