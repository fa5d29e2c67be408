"""Records on disk: restarts, replaced names and expiry."""

import json
import logging

import pytest
from server_calls import Wire

from tinkex_sync.local import LocalServer
from tinkex_sync.local.store import Store


def complete_twice(wire, sampler, seq=0):
    """Return two completions of one fixed prompt."""
    return wire.result(wire.sample(sampler, seq, num_samples=2).json())["sequences"]


def checkpoint_path(model, folder, name):
    return f"training_runs/{model}/checkpoints/{folder}/{name}"


def test_name_saved_again_contains_the_new_weights(wire):
    model = wire.model()
    wire.save(model, "latest")
    wire.learn(model)
    newest = wire.loss(model)
    path = wire.result(wire.send("save_weights", model, {"path": "latest", "overwrite": True}))["path"]
    assert len(wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]) == 1
    wire.learn(model)
    wire.result(wire.send("load_weights", model, {"path": path, "optimizer": False}))
    assert wire.loss(model) == newest


def test_all_records_survive_a_restart(tmp_path):
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
        sampled = complete_twice(wire, named)
        before = [wire.get(what).json() for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")]
    # An interrupted write leaves a temporary file, which the next start removes.
    leftover = tmp_path / "new" / "data" / "sessions" / f".x.json.{'0' * 32}"
    leftover.write_bytes(b"{")
    with LocalServer(data=data) as server, Wire(server) as wire:
        assert not leftover.exists()
        after = [wire.get(what).json() for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")]
        assert after == before
        assert complete_twice(wire, named) == complete_twice(wire, ephemeral) == sampled
        response = wire.post("optim_step", {"model_id": model, "adam_params": {}, "seq_id": 9})
        assert response.status_code == 404
        assert "restarted" in response.json()["detail"]
        resumed = wire.model(wire.session())
        wire.result(wire.send("load_weights", resumed, {"path": path, "optimizer": True}))
        assert wire.loss(resumed) == loss


def test_expired_checkpoint_is_deleted(tmp_path):
    with LocalServer(protocol="both", data=str(tmp_path)) as server, Wire(server) as wire:
        model = wire.model()
        for name in ("short", "long"):
            wire.result(wire.send("save_weights", model, {"path": name, "ttl_seconds": 3600}))
    for file in tmp_path.glob("runs/*/weights/*.json"):
        record = json.loads(file.read_bytes())
        if record["name"] == "short":
            file.write_text(json.dumps({**record, "expires_at": "2020-01-01T00:00:00.000000Z"}))
    with LocalServer(protocol="both", data=str(tmp_path)) as server, Wire(server) as wire:
        (left,) = wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        assert left["checkpoint_id"] == "weights/long"
        assert wire.post("weights_info", {"tinker_path": f"tinker://{model}/weights/short"}).status_code == 404


PATTERNS = ["sessions/*.json", "samplers/*.json", "runs/*/run.json", "runs/*/weights/*.json"]
DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbled": lambda data: b"\xff" + data[1:],
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "other object": lambda data: b"{}",
    "wrong type": lambda data: data.replace(b'"time":"', b'"time":7,"x":"'),
    "other id": lambda data: data.replace(b'"id":"', b'"id":"../../'),
}


def make_records(data):
    """Fill a directory with two sessions of one run, checkpoint and sampler each."""
    with LocalServer(data=str(data)) as server, Wire(server) as wire:
        for _ in range(2):
            session = wire.session()
            model = wire.model(session, rank=2)
            wire.sampler(session, 0, model_path=wire.save(model, "a"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    data = tmp_path_factory.mktemp("records")
    make_records(data)
    return {path.relative_to(data): path.read_bytes() for path in data.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_damaged_record_is_set_aside_and_the_rest_is_served(tmp_path, caplog, records, pattern, damage):
    for name, content in records.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    before = Store(tmp_path)
    path = sorted(tmp_path.glob(pattern))[0]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        after = Store(tmp_path)
    assert str(path) in caplog.text
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()

    def count(store):
        return sum(len(store.all(table)) for table in ("sessions", "samplers", "runs")) + len(store.checkpoints())

    assert count(after) == count(before) - 1
    caplog.clear()
    assert count(Store(tmp_path)) == count(after)
    assert not caplog.records


def test_server_starts_with_damaged_records_and_logs_their_names(tmp_path, caplog):
    make_records(tmp_path)
    damaged = [sorted(tmp_path.glob(pattern))[0] for pattern in PATTERNS]
    for path in damaged:
        path.write_bytes(b"{")
    with LocalServer(data=str(tmp_path), protocol="both") as server, Wire(server) as wire:
        assert len(wire.get("sessions").json()["sessions"]) == 1
        assert len(wire.get("checkpoints").json()["checkpoints"]) == 1
        assert wire.get("training_runs", project_id="p").json()["training_runs"] == []
    assert all(path.name in caplog.text for path in damaged)


def test_error_for_damaged_weights_contains_the_path_of_the_file(tmp_path):
    with LocalServer(data=str(tmp_path)) as server, Wire(server) as wire:
        model = wire.model()
        checkpoint = wire.save(model, "a")
        (path,) = tmp_path.glob("runs/*/weights/*.npz")
        for content in (b"", b"x", path.read_bytes()[:-100], path.read_bytes()[:2000] + b"\0" * 1000):
            path.write_bytes(content)
            future = wire.send("load_weights", model, {"path": checkpoint, "optimizer": True})
            assert str(path) in wire.result(future)["error"]


def test_directory_in_use_by_another_server_is_refused(tmp_path):
    with LocalServer(data=str(tmp_path)) as server, Wire(server) as wire:
        wire.session()
        with pytest.raises(RuntimeError, match="in use by another server") as error:
            LocalServer(data=str(tmp_path)).start()
        assert str(tmp_path) in str(error.value)
        assert len(wire.get("sessions").json()["sessions"]) == 1
    with LocalServer(data=str(tmp_path)) as server, Wire(server) as wire:
        assert len(wire.get("sessions").json()["sessions"]) == 1
