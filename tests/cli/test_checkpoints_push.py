"""``checkpoint push-hf`` with the real huggingface_hub library, against a hub on loopback."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tinkex_sync.local import Faults

pytest.importorskip("huggingface_hub")


class Hub:
    """A hub that accepts one pushed folder. It records the files, the repositories and the keys."""

    def __init__(self):
        self.repositories, self.files, self.keys, self.refuse = [], {}, set(), False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _respond(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                hub.keys.add(self.headers.get("Authorization"))
                status, value = hub.respond(self.command, urlsplit(self.path).path, body)
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_HEAD = _respond

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def respond(self, method, path, body):
        if self.refuse:
            return 403, {"error": "this token may not write"}
        if path == "/api/repos/create":
            repository = json.loads(body)
            self.repositories.append(repository)
            name = "/".join(filter(None, [repository.get("organization"), repository["name"]]))
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            oid = "1" * 40
            return 200, {"commitUrl": f"{self.url}/me/adapter/commit/{oid}", "commitOid": oid}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 200, {"id": "me/adapter", "sha": "0" * 40, "siblings": [], "private": True, "tags": []}

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def hub():
    running = Hub()
    yield running
    running.close()


def hub_settings(hub, tmp_path):
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def test_a_checkpoint_is_pushed_with_a_model_card(command, saved, hub, tmp_path):
    path = saved.training[0]
    done = command("checkpoint", "push-hf", path, "me/adapter", "--format", "json", env=hub_settings(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["repository"] == "me/adapter" and result["commit"] == "1" * 40
    # Versions of the library send it under two names.
    created = hub.repositories[0]
    assert created.get("private") is True or created.get("visibility") == "private"
    card = hub.files.pop("README.md").decode()
    assert "base_model: tinkex/tiny" in card and "of rank 4" in card and path in card
    assert hub.files and all(hub.files.values())
    assert "Bearer hf_secret" in hub.keys and hub.keys <= {"Bearer hf_secret", None}
    assert "hf_secret" not in done.stdout + done.stderr


def test_the_card_is_complete_where_weights_info_refuses_sampler_paths(command, server, saved, hub, tmp_path):
    server.set_faults(Faults(fail_first={"weights_info": [400]}))
    try:
        done = command("checkpoint", "push-hf", saved.sampler, "me/adapter", env=hub_settings(hub, tmp_path))
    finally:
        server.set_faults(Faults())
    assert done.returncode == 0, done.stderr
    card = hub.files["README.md"].decode()
    assert "base_model: tinkex/tiny" in card
    assert "of rank 4" in card


def test_an_error_of_the_hub_names_the_remedy(command, saved, hub, tmp_path):
    hub.refuse = True
    done = command("checkpoint", "push-hf", saved.training[0], "me/adapter", env=hub_settings(hub, tmp_path))
    assert done.returncode == 1 and "HF_TOKEN" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("name", ["adapter", "a/b/c", "/x", "x/"])
def test_a_malformed_repository_is_refused_before_anything_is_sent(command, saved, hub, tmp_path, name):
    done = command("checkpoint", "push-hf", saved.training[0], name, env=hub_settings(hub, tmp_path))
    assert done.returncode == 1 and "OWNER/NAME" in done.stderr and not hub.keys
