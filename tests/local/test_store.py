"""Records on disk: restarts, replaced names and expiry."""

import json

from server_calls import Wire

from tinkex_sync.local import LocalServer


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
        before = [
            wire.get(what).json()
            for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")
        ]
    # An interrupted write leaves a temporary file, which the next start removes.
    leftover = tmp_path / "new" / "data" / "sessions" / f".x.json.{'0' * 32}"
    leftover.write_bytes(b"{")
    with LocalServer(data=data) as server, Wire(server) as wire:
        assert not leftover.exists()
        after = [
            wire.get(what).json()
            for what in ("training_runs", "checkpoints", "sessions", f"sessions/{session}")
        ]
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
        assert (
            wire.post("weights_info", {"tinker_path": f"tinker://{model}/weights/short"}).status_code == 404
        )
