"""Downloads of checkpoints: they are resumed after interruptions, and leave the destination unchanged on errors."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_archives import FILES, archive
from scripted_server import Answer, ScriptedServer
from tls_certificate import certificate

from tinkex_sync import RestClient, ServiceClient, errors
from tinkex_sync.checkpoints.download import download_checkpoint
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.errors import APIConnectionError

PATH = "tinker://run-1/weights/step-1"


class Store:
    """A file server with ranges that closes connections after given numbers of bytes."""

    def __init__(self, content, cuts=(), ranges=True, etag=True):
        self.content, self.cuts, self.ranges, self.etag = content, list(cuts), ranges, etag
        self.ranges_requested, self.statuses, self.keys = [], [], []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                store.keys.append(self.headers.get("X-API-Key"))
                store.ranges_requested.append(self.headers.get("Range"))
                if store.statuses:
                    self.send_response(store.statuses.pop(0))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                tag = f'"{hashlib.sha256(store.content).hexdigest()}"'
                found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                same = self.headers.get("If-Range") in (None, tag)
                begin = int(found[1]) if found and store.ranges and same else 0
                body = store.content[begin:]
                self.send_response(206 if begin else 200)
                if begin:
                    total = len(store.content)
                    self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
                if store.etag:
                    self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if store.cuts:
                    self.wfile.write(body[: store.cuts.pop(0)])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/file"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


@pytest.fixture
def rest():
    """A REST client, and its server, which returns the URL of the archive."""
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        with ServiceClient(
            base_url=server.base_url, api_key="tml-secret", load_plugins=False, clock=ScaledClock(50.0)
        ) as service:
            client = service.create_rest_client()
            assert isinstance(client, RestClient)
            yield client, server


def fetch(rest, store, folder, **options):
    client, server = rest
    server.defaults["training_runs/run-1/checkpoints/weights/step-1/archive"] = Answer(
        302, text="", headers={"Location": store.url}
    )
    return download_checkpoint(client, PATH, folder, **options)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def temporary_names(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("packed", [True, False])
def test_a_checkpoint_is_downloaded_and_unpacked(rest, tmp_path, packed):
    reports = []
    with Store(archive(packed=packed)) as store:
        done = fetch(rest, store, tmp_path / "here", progress=lambda *report: reports.append(report))
        assert contents(done.path) == FILES and done.size_bytes == len(store.content)
        # The key is not sent to another server.
        assert store.keys == [None]
    assert not temporary_names(tmp_path)
    downloading = [report for report in reports if report[0] == "downloading"]
    assert downloading[0][1] == 0 and downloading[-1][1:] == (done.size_bytes, done.size_bytes)
    assert [report[1] for report in reports if report[0] == "unpacking"] == [1, 2, 3]


@pytest.mark.parametrize("cuts", [[1], [100_000], [10, 10, 10, 10], [0, 200_000, 0, 0, 50_000]])
def test_an_interrupted_download_is_resumed(rest, tmp_path, cuts):
    with Store(archive(), cuts) as store:
        assert contents(fetch(rest, store, tmp_path / "here").path) == FILES
        assert len(store.ranges_requested) == len(cuts) + 1
        sent, ranges = 0, []
        for cut in cuts:
            sent += cut
            ranges.append(f"bytes={sent}-" if sent else None)
        assert store.ranges_requested == [None, *ranges]


@pytest.mark.parametrize("settings", [{"ranges": False}, {"etag": False}])
def test_without_ranges_or_a_version_the_download_starts_again(rest, tmp_path, settings):
    with Store(archive(), [1000, 2000], **settings) as store:
        assert contents(fetch(rest, store, tmp_path / "here").path) == FILES


def test_a_changed_archive_is_downloaded_from_its_start(rest, tmp_path):
    with Store(archive({"a": os.urandom(200_000)}), [1000]) as store:
        old, new = store.content, archive()

        def change(phase, done, total):
            if done and store.content is old:
                store.content = new

        assert contents(fetch(rest, store, tmp_path / "here", progress=change).path) == FILES


def test_an_expired_url_is_requested_again(rest, tmp_path):
    with Store(archive(), [1000]) as store:
        store.statuses = [403, 404]
        assert contents(fetch(rest, store, tmp_path / "here").path) == FILES
        assert len(rest[1].sent("training_runs/run-1/checkpoints/weights/step-1/archive")) == 3


def test_the_download_fails_after_six_interruptions_without_a_byte(rest, tmp_path):
    with Store(archive(), [0] * 100) as store, pytest.raises(errors.APIConnectionError, match="was interrupted"):
        fetch(rest, store, tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(rest, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Store(archive()) as store:
        assert contents(fetch(rest, store, tmp_path / "here").path) == FILES


def test_a_proxy_that_fails_is_named_without_its_password(rest, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://joe:hidden@127.0.0.1:9")
    store = SimpleNamespace(url="http://store.example/file")
    with pytest.raises(
        APIConnectionError, match=r"server store\.example, through proxy http://127\.0\.0\.1:9"
    ) as caught:
        fetch(rest, store, tmp_path / "here")
    assert "hidden" not in str(caught.value)


def test_a_certificate_that_is_not_trusted_ends_the_download_with_the_remedy(rest, tmp_path):
    tls, _ = certificate(tmp_path)
    with ScriptedServer() as server:
        server.use_tls(tls)
        store = SimpleNamespace(url=f"{server.base_url}/file")
        with pytest.raises(APIConnectionError, match="set verify= or REQUESTS_CA_BUNDLE"):
            fetch(rest, store, tmp_path / "here")
    assert len(rest[1].sent("training_runs/run-1/checkpoints/weights/step-1/archive")) == 1


def test_a_wait_for_the_archive_is_reported(rest, tmp_path):
    reports, (_, server) = [], rest
    endpoint = "training_runs/run-1/checkpoints/weights/step-1/archive"
    server.script(endpoint, Answer(425, {}), Answer(425, {"detail": "building"}))
    with Store(archive()) as store:
        fetch(rest, store, tmp_path / "here", progress=lambda *report: reports.append(report))
    assert [report[0] for report in reports[:2]] == ["building", "building"]


def test_an_archive_that_is_never_ready_exceeds_the_deadline(rest, tmp_path):
    client, server = rest
    server.defaults["training_runs/run-1/checkpoints/weights/step-1/archive"] = Answer(425, {"detail": "building"})
    with pytest.raises(errors.DeadlineExceeded, match="still building the archive"):
        download_checkpoint(client, PATH, tmp_path / "here", timeout=20.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["cut short", "not a tar", "bad checksum", "empty"])
def test_a_broken_archive_leaves_the_destination_unchanged(rest, tmp_path, broken):
    whole = archive()
    content = {
        "cut short": whole[:-20_000],
        "not a tar": b"<html>no</html>" * 100,
        "bad checksum": whole[:-6] + b"\0\0\0\0\0\0",
        "empty": archive({}),
    }[broken]
    here = tmp_path / "here"
    here.mkdir()
    (here / "kept").write_bytes(b"old")
    with Store(content) as store, pytest.raises(errors.APIResponseValidationError, match="nothing was changed"):
        fetch(rest, store, here, force=True)
    assert contents(here) == {"kept": b"old"} and not temporary_names(tmp_path)


def test_an_existing_folder_is_replaced_only_with_force(rest, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "old").write_bytes(b"old")
    with Store(archive()) as store:
        with pytest.raises(FileExistsError, match="force"):
            fetch(rest, store, here)
        assert not store.ranges_requested
        fetch(rest, store, here, force=True)
    assert contents(here) == FILES
    (tmp_path / "file").write_bytes(b"")
    with Store(archive()) as store, pytest.raises(FileExistsError, match="not a folder"):
        fetch(rest, store, tmp_path / "file", force=True)


def test_close_ends_a_download(rest, tmp_path):
    def close(phase, done, total):
        if done:
            rest[0].session.close()

    with Store(archive()) as store, pytest.raises(errors.ClosedError):
        fetch(rest, store, tmp_path / "here", progress=close)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys
from tinkex_sync import ServiceClient
from tinkex_sync.checkpoints import download_checkpoint

def report(phase, done, total):
    if done:
        print("some", flush=True)
        sys.stdin.read()

with ServiceClient(base_url=sys.argv[1], api_key="k", load_plugins=False) as service:
    download_checkpoint(service.create_rest_client(), sys.argv[2], sys.argv[3], progress=report)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 needs POSIX")
def test_a_killed_process_leaves_no_destination(rest, tmp_path):
    here = tmp_path / "here"
    with Store(archive()) as store:
        rest[1].defaults["training_runs/run-1/checkpoints/weights/step-1/archive"] = Answer(
            302, text="", headers={"Location": store.url}
        )
        running = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", SCRIPT, rest[1].base_url, PATH, str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        with running:
            assert running.stdout.readline().strip() == b"some"
            running.send_signal(signal.SIGKILL)
            running.wait(20)
        assert not here.exists()
        assert contents(fetch(rest, store, here).path) == FILES


@pytest.mark.parametrize("limit", [1000, 299_000])
def test_an_archive_larger_than_the_limit_is_not_downloaded(rest, tmp_path, limit):
    with Store(archive()) as store, pytest.raises(errors.APIResponseValidationError, match=f"now {limit}"):
        fetch(rest, store, tmp_path / "here", max_bytes=limit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://[", "ftp://host/file", "http://host:99999999/file"])
def test_an_archive_url_that_is_not_http_is_refused(rest, tmp_path, url):
    client, server = rest
    server.defaults["training_runs/run-1/checkpoints/weights/step-1/archive"] = Answer(
        302, text="", headers={"Location": url}
    )
    with pytest.raises(errors.APIResponseValidationError, match="HTTP"):
        download_checkpoint(client, PATH, tmp_path / "here")
