"""A recorder of observer events."""

import threading


class EventRecorder:
    """Records the events that an observer receives, and waits for conditions. Thread-safe."""

    def __init__(self):
        self.changed = threading.Condition()
        self.events = []

    def record(self, *event):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def until(self, condition, timeout=20.0):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.events), timeout), self.events
