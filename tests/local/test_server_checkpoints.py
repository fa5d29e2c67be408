"""Checkpoints, runs, sessions and samplers, and what is left of them after a restart."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
import requests
from server_calls import Wire, until

from tinkex_sync.local import LocalServer


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


@pytest.fixture
def wire(server):
    with Wire(server) as client:
        yield client


def fetch(wire, path, **headers):
    return wire.http.get(path, headers=headers, timeout=10)


def draw(wire, sampler, seq=0):
    """What a sampler answers to one fixed question."""
    return wire.result(wire.sample(sampler, seq, num_samples=2).json())["sequences"]


def checkpoint_path(model, folder, name):
    return f"training_runs/{model}/checkpoints/{folder}/{name}"


def test_a_loaded_state_goes_on_exactly_as_the_saved_one(wire):
    model = wire.model()
    wire.learn(model)
    path = wire.save(model, "half-way")
    assert path == f"tinker://{model}/weights/half-way"
    wire.learn(model)
    straight_on = wire.loss(model)
    for optimizer, same in ((True, True), (False, False)):
        body = {"path": path, "optimizer": optimizer}
        loaded = wire.result(wire.send("load_weights", model, body))
        assert loaded == {"path": path, "type": "load_weights"}
        wire.learn(model)
        assert (wire.loss(model) == straight_on) is same


def test_a_new_model_starts_from_a_saved_state(wire):
    model = wire.model(rank=6)
    wire.learn(model)
    path = wire.save(model, "start")
    assert wire.ok("weights_info", {"tinker_path": path}) == {
        "base_model": "tinkex/tiny",
        "is_lora": True,
        "lora_rank": 6,
    }
    other = wire.model(rank=6, seed=99)
    assert wire.loss(other) != wire.loss(model)
    wire.result(wire.send("load_weights", other, {"path": path, "optimizer": False}))
    assert wire.loss(other) == wire.loss(model)


def test_what_cannot_be_loaded_is_named(wire):
    model = wire.model()
    sampler_path = wire.save(model, "s", "save_weights_for_sampler")
    for path, why in ((f"tinker://{model}/weights/none", "no checkpoint"), (sampler_path, "sampling only")):
        failed = wire.result(wire.send("load_weights", model, {"path": path, "optimizer": False}))
        assert failed["category"] == "user"
        assert path in failed["error"]
        assert why in failed["error"]


def test_a_sampler_of_saved_weights_keeps_them_while_training_goes_on(wire):
    session = wire.session()
    model = wire.model(session)
    wire.result(wire.backward(model))
    wire.result(wire.step(model, learning_rate=0.1))
    path = wire.save(model, "then", "save_weights_for_sampler")
    number = {"sampling_session_seq_id": 7}
    ephemeral = wire.result(wire.send("save_weights_for_sampler", model, number))
    assert ephemeral["path"] is None
    named, base = wire.sampler(session, 8, model_path=path), wire.sampler(session, 9)
    before = draw(wire, named)
    assert draw(wire, ephemeral["sampling_session_id"]) == before
    assert draw(wire, base) != before
    wire.result(wire.backward(model))
    wire.result(wire.step(model, learning_rate=0.1))
    assert draw(wire, named, 1) == before
    assert wire.get(f"samplers/{named}").json() == {
        "sampler_id": named,
        "base_model": "tinkex/tiny",
        "model_path": path,
    }
    taken = wire.result(wire.send("save_weights_for_sampler", model, number))
    assert taken["category"] == "user"


def test_weights_saved_for_training_can_be_sampled_from_too(wire):
    session = wire.session()
    model = wire.model(session)
    wire.learn(model)
    paths = [wire.save(model, "x"), wire.save(model, "x", "save_weights_for_sampler")]
    samplers = [wire.sampler(session, number, model_path=path) for number, path in enumerate(paths)]
    assert draw(wire, samplers[0]) == draw(wire, samplers[1])


def test_a_run_tells_what_it_is_and_what_it_saved_last(wire):
    model = wire.model(user_metadata={"project": "x"})
    run = wire.get(f"training_runs/{model}").json()
    assert run["last_checkpoint"] is None
    for name in ("a", "b"):
        wire.save(model, name)
    wire.save(model, "c", "save_weights_for_sampler")
    run = wire.get(f"training_runs/{model}").json()
    last, sampler = run.pop("last_checkpoint"), run.pop("last_sampler_checkpoint")
    assert (last["checkpoint_id"], last["checkpoint_type"]) == ("weights/b", "training")
    assert (sampler["checkpoint_id"], sampler["checkpoint_type"]) == ("sampler_weights/c", "sampler")
    assert last["tinker_path"] == f"tinker://{model}/weights/b"
    assert last["size_bytes"] > sampler["size_bytes"] > 0
    moment = datetime.fromisoformat(run.pop("last_request_time").replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - moment) < timedelta(minutes=1)
    assert run == {
        "training_run_id": model,
        "base_model": "tinkex/tiny",
        "model_owner": "local",
        "is_lora": True,
        "corrupted": False,
        "lora_rank": 4,
        "user_metadata": {"project": "x"},
    }


def test_listings_are_paged_newest_first(wire):
    session = wire.session()
    models = [wire.model(session, number) for number in range(3)]
    page = wire.get("training_runs", limit=2, offset=1).json()
    assert [run["training_run_id"] for run in page["training_runs"]] == [models[1], models[0]]
    total = page["cursor"]["total_count"]
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": total}
    assert wire.get("training_runs", limit=0).json()["training_runs"] == []
    assert len(wire.get("training_runs", limit=1000).json()["training_runs"]) == total >= 3
    for name in ("first", "second"):
        wire.save(models[0], name)
    mine = wire.get("checkpoints", limit=1, offset=0).json()
    assert [one["checkpoint_id"] for one in mine["checkpoints"]] == ["weights/second"]
    assert mine["cursor"]["total_count"] >= 2
    of_run = wire.get(f"training_runs/{models[0]}/checkpoints").json()["checkpoints"]
    assert [one["checkpoint_id"] for one in of_run] == ["weights/first", "weights/second"]
    assert wire.get("sessions", limit=1).json()["sessions"] == [session]
    assert wire.get(f"sessions/{session}").json() == {"training_run_ids": models, "sampler_ids": []}


@pytest.mark.parametrize("bad", [{"limit": -1}, {"limit": "x"}, {"offset": "1.5"}])
def test_a_bad_page_is_refused_by_name(wire, bad):
    answer = wire.get("training_runs", **bad)
    assert answer.status_code == 422
    assert next(iter(bad)) in answer.json()["detail"]


def test_publishing_and_deleting(wire):
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


def test_a_name_saved_again_holds_the_new_weights(wire):
    model = wire.model()
    wire.save(model, "latest")
    wire.learn(model)
    newest = wire.loss(model)
    path = wire.save(model, "latest")
    assert len(wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]) == 1
    wire.learn(model)
    wire.result(wire.send("load_weights", model, {"path": path, "optimizer": False}))
    assert wire.loss(model) == newest


def test_an_archive_is_fetched_through_a_link_whole_or_in_part(wire):
    model = wire.model()
    wire.save(model, "x")
    answer = wire.get(f"{checkpoint_path(model, 'weights', 'x')}/archive")
    assert answer.status_code == 302
    ends = parsedate_to_datetime(answer.headers["Expires"])
    assert timedelta(minutes=14) < ends - datetime.now(timezone.utc) <= timedelta(minutes=15)
    link = answer.headers["Location"]
    assert link.startswith(wire.root)
    whole = fetch(wire, link)
    assert whole.status_code == 200
    assert whole.headers["Content-Type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert tar.getnames() == ["checkpoint.json", "arrays.npz"]
        about = orjson.loads(tar.extractfile("checkpoint.json").read())
        assert about["base_model"] == "tinkex/tiny"
        with np.load(io.BytesIO(tar.extractfile("arrays.npz").read())) as arrays:
            assert arrays.files
    etag = whole.headers["ETag"]
    part = fetch(wire, link, Range="bytes=100-199")
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    # A later link leads to the same bytes, so that a broken download can go on.
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


def test_an_archive_link_needs_no_key():
    with LocalServer(api_key="tml-k") as server, Wire(server, **{"X-API-Key": "tml-k"}) as wire:
        model = wire.model()
        wire.save(model, "x")
        link = wire.get(f"{checkpoint_path(model, 'weights', 'x')}/archive").headers["Location"]
        assert requests.get(link, timeout=10).status_code == 200


def test_everything_saved_survives_a_restart(tmp_path):
    data = str(tmp_path / "new" / "data")
    with LocalServer(data=data) as server, Wire(server) as wire:
        session = wire.session()
        model = wire.model(session, user_metadata={"a": "b"})
        wire.learn(model)
        loss = wire.loss(model)
        path = wire.save(model, "kept")
        wire.save(model, "gone")
        sampler_path = wire.save(model, "kept", "save_weights_for_sampler")
        wire.http.delete(f"{wire.root}/api/v1/{checkpoint_path(model, 'weights', 'gone')}", timeout=10)
        wire.http.post(f"{wire.root}/api/v1/{checkpoint_path(model, 'weights', 'kept')}/publish", timeout=10)
        named = wire.sampler(session, 0, model_path=sampler_path)
        number = {"sampling_session_seq_id": 1}
        ephemeral = wire.result(wire.send("save_weights_for_sampler", model, number))["sampling_session_id"]
        drawn = draw(wire, named)
        before = [
            wire.get(what).json()
            for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")
        ]
    # A write that was cut off leaves a temporary file, which the next start removes.
    leftover = tmp_path / "new" / "data" / "sessions" / f".x.json.{'0' * 32}"
    leftover.write_bytes(b"{")
    with LocalServer(data=data) as server, Wire(server) as wire:
        assert not leftover.exists()
        after = [
            wire.get(what).json()
            for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")
        ]
        assert after == before
        assert draw(wire, named) == draw(wire, ephemeral) == drawn
        answer = wire.post("optim_step", {"model_id": model, "adam_params": {}, "seq_id": 9})
        assert answer.status_code == 404
        assert "restarted" in answer.json()["detail"]
        resumed = wire.model(wire.session())
        wire.result(wire.send("load_weights", resumed, {"path": path, "optimizer": True}))
        assert wire.loss(resumed) == loss


def test_the_temporary_directory_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with LocalServer() as server, Wire(server) as wire:
        wire.save(wire.model(), "x")
        assert list(tmp_path.glob("tinkex-local-*/runs"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("killed", ["server", "parent"])
def test_the_temporary_directory_is_removed_by_whichever_process_is_left(tmp_path, monkeypatch, killed):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if killed == "server":
        with LocalServer() as server:
            os.kill(server.pid, signal.SIGKILL)
    else:
        code = "import os, tinkex_sync.local as l; s = l.LocalServer().start(); os.kill(os.getpid(), 9)"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    until(lambda: not list(tmp_path.iterdir()))
