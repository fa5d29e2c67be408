"""The embedded server behind an imitation: what the client is told to have happened did happen."""

import http.client
import json
import threading
from urllib.parse import urlsplit

__all__ = ["Engine", "Refused"]


class Refused(Exception):
    """The engine does not take a request: status and reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Engine:
    """Calls of the embedded server; its connections are used again. Thread-safe."""

    def __init__(self, base_url):
        self._host = urlsplit(base_url).netloc
        self._lock = threading.Lock()
        self._idle = []  # guarded by _lock
        self._closed = False  # guarded by _lock

    def send(self, method, path, content=None, headers=None):
        """Status, headers with names in lower case, and body."""
        with self._lock:
            connection = (
                self._idle.pop() if self._idle else http.client.HTTPConnection(self._host, timeout=60)
            )
        try:
            connection.request(method, path, content, headers or {})
            answer = connection.getresponse()
            found = answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return found
        connection.close()
        return found

    def close(self):
        """Close the connections that are idle, and the others once they are."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(self, endpoint, body):
        """The decoded answer; Refused if it is not 2xx."""
        status, _, content = self.send("POST", f"/api/v1/{endpoint}", json.dumps(body).encode())
        answer = json.loads(content)
        if status >= 300:
            raise Refused(status, answer["detail"])
        return answer

    def poll(self, request_id, hold):
        """Status (200, 408, 410 ...) and decoded answer."""
        # The server answers within 0.9 of what a client says it would wait.
        headers = {"x-stainless-read-timeout": str(max(hold, 0.0) / 0.9)}
        status, _, content = self.send(
            "POST", "/api/v1/retrieve_future", json.dumps({"request_id": request_id}).encode(), headers
        )
        return status, json.loads(content)
