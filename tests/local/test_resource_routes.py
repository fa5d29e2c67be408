"""Routes of checkpoints: publish, delete and archives."""

import io
import tarfile
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import numpy as np
import orjson
import requests
from server_calls import Wire

from tinkex_sync.local import LocalServer


def fetch(wire, path, **headers):
    return wire.http.get(path, headers=headers, timeout=10)


def checkpoint_path(model, folder, name):
    return f"training_runs/{model}/checkpoints/{folder}/{name}"


def test_checkpoint_can_be_published_and_deleted(wire):
    model = wire.model()
    wire.save(model, "x")
    url = f"{wire.root}/api/v1/{checkpoint_path(model, 'weights', 'x')}"

    def public():
        (one,) = wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        return one["public"]

    assert not public()
    assert wire.http.post(f"{url}/publish", timeout=10).status_code == 200
    assert public()
    assert wire.http.delete(f"{url}/publish", timeout=10).status_code == 200
    assert not public()
    assert wire.http.delete(url, timeout=10).status_code == 200
    assert wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"] == []
    for again in (wire.http.delete(url, timeout=10), wire.http.post(f"{url}/publish", timeout=10)):
        assert again.status_code == 404
        assert f"tinker://{model}/weights/x" in again.json()["detail"]


def test_archive_can_be_downloaded_completely_or_in_ranges(wire):
    model = wire.model()
    wire.save(model, "x")
    response = wire.get(f"{checkpoint_path(model, 'weights', 'x')}/archive")
    assert response.status_code == 302
    ends = parsedate_to_datetime(response.headers["Expires"])
    assert timedelta(minutes=14) < ends - datetime.now(timezone.utc) <= timedelta(minutes=15)
    link = response.headers["Location"]
    assert link.startswith(wire.root)
    whole = fetch(wire, link)
    assert whole.status_code == 200
    assert whole.headers["Content-Type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors", "checkpoint.json", "arrays.npz"]
        about = orjson.loads(tar.extractfile("checkpoint.json").read())
        assert about["base_model"] == "tinkex/tiny"
        with np.load(io.BytesIO(tar.extractfile("arrays.npz").read())) as arrays:
            assert arrays.files
    etag = whole.headers["ETag"]
    part = fetch(wire, link, Range="bytes=100-199")
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    # A later link returns the same bytes, so an interrupted download can be resumed.
    later = wire.get(f"{checkpoint_path(model, 'weights', 'x')}/archive").headers["Location"]
    rest = fetch(wire, later, Range="bytes=100-", **{"If-Range": etag})
    assert rest.status_code == 206
    assert rest.content == whole.content[100:]
    changed = fetch(wire, later, Range="bytes=100-", **{"If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = fetch(wire, later, Range=f"bytes={len(whole.content)}-")
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == f"bytes */{len(whole.content)}"
    assert fetch(wire, later, **{"If-None-Match": etag}).status_code == 304
    assert fetch(wire, f"{wire.root}/archives/guess/x.tar.gz").status_code == 403
    assert wire.get(f"{checkpoint_path(model, 'weights', 'none')}/archive").status_code == 404


def test_archive_link_needs_no_api_key():
    with LocalServer(api_key="tml-k") as server, Wire(server, **{"X-API-Key": "tml-k"}) as wire:
        model = wire.model()
        wire.save(model, "x")
        link = wire.get(f"{checkpoint_path(model, 'weights', 'x')}/archive").headers["Location"]
        assert requests.get(link, timeout=10).status_code == 200


def test_archive_of_sampler_weights_contains_the_adapter_without_optimizer_state(wire):
    model = wire.model()
    wire.save(model, "x", "save_weights_for_sampler")
    link = wire.get(f"{checkpoint_path(model, 'sampler_weights', 'x')}/archive").headers["Location"]
    with tarfile.open(fileobj=io.BytesIO(fetch(wire, link).content)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors", "checkpoint.json"]
