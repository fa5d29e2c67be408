"""A recorder of observer events for the suite."""

import threading


class EventRecorder:
    """Records the events an observer receives, and waits for a condition on them."""

    def __init__(self):
        self.changed = threading.Condition()
        self.events = []

    def note(self, *event):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def until(self, condition, timeout=20.0):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.events), timeout), self.events
