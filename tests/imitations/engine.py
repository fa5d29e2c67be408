"""Requests to the embedded server, which computes the results of an imitation."""

import http.client
import json
import threading
from urllib.parse import urlsplit

__all__ = ["Engine", "ImitationError"]


class ImitationError(Exception):
    """An error response: its status and reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Engine:
    """Sends requests to the embedded server and reuses connections. Thread-safe."""

    def __init__(self, base_url):
        self._host = urlsplit(base_url).netloc
        self._lock = threading.Lock()
        self._idle = []  # guarded by _lock
        self._closed = False  # guarded by _lock

    def send(self, method, path, content=None, headers=None):
        """Send a request. Return status, headers with lower-case names, and body."""
        with self._lock:
            connection = self._idle.pop() if self._idle else http.client.HTTPConnection(self._host, timeout=60)
        try:
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            received = (response.status, {name.lower(): text for name, text in response.getheaders()}, response.read())
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return received
        connection.close()
        return received

    def close(self):
        """Close all idle connections now, and the others when they become idle."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(self, endpoint, body):
        """Send a POST. Return the decoded response. Raise ImitationError if its status is not 2xx."""
        status, _, content = self.send("POST", f"/api/v1/{endpoint}", json.dumps(body).encode())
        response = json.loads(content)
        if status >= 300:
            raise ImitationError(status, response["detail"])
        return response

    def poll(self, request_id, hold):
        """Poll once. Return the status (200, 408, 410 ...) and the decoded response."""
        # The server holds a poll for at most 0.9 of the read timeout that the client sends.
        headers = {"x-stainless-read-timeout": str(max(hold, 0.0) / 0.9)}
        status, _, content = self.send(
            "POST", "/api/v1/retrieve_future", json.dumps({"request_id": request_id}).encode(), headers
        )
        return status, json.loads(content)
