"""Locks, events, threads, clocks, the timer and the signal that a client is closed."""
