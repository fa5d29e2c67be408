"""Clocks, the timer thread and worker threads."""
