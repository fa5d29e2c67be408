"""Saving, labelling, copying and downloading of checkpoints."""

import pytest
import requests
from server_calls import connect

from tinkex_sync import errors
from tinkex_sync.local import Faults

SAVES = ["save_weights", "save_weights_for_sampler"]


@pytest.mark.parametrize("operation", SAVES)
def test_saving_an_existing_name_gets_409_unless_overwrite_is_requested(wire, operation):
    model = wire.model()
    path = wire.save(model, "a", operation)
    body = {"path": "a", "model_id": model, "seq_id": 9}
    for fields in ({}, {"overwrite": False}, {"overwrite": None}):
        rejected = wire.post(operation, {**body, **fields})
        assert rejected.status_code == 409
        assert path in rejected.json()["detail"]
    assert wire.result(wire.ok(operation, {**body, "overwrite": True}))["path"] == path


def test_name_of_a_save_in_the_queue_gets_409(server, wire):
    model = wire.model()
    server.set_faults(Faults(pause=3600, pause_kind="training"))
    first = wire.send("save_weights", model, {"path": "a"}, seq=1)
    assert wire.post("save_weights", {"path": "a", "model_id": model, "seq_id": 2}).status_code == 409
    assert wire.send("save_weights", model, {"path": "a"}, seq=1) == first
    server.set_faults(Faults())
    assert wire.result(first)["path"].endswith("weights/a")


def test_name_of_a_deleted_checkpoint_can_be_used_again(wire):
    model = wire.model()
    wire.save(model, "a")
    url = f"{wire.root}/api/v1/training_runs/{model}/checkpoints/weights/a"
    assert requests.delete(url, timeout=60).status_code == 200
    assert wire.save(model, "a")


@pytest.mark.parametrize("protocol", ["0.7", "0.38"])
def test_client_error_for_an_existing_name_contains_the_checkpoint(server_0_38, protocol):
    with connect(server_0_38, protocol=protocol) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        path = training.save_state("a").path
        with pytest.raises(errors.ConflictError, match=path):
            training.save_state("a")
        assert training.save_state("b").path != path


def test_checkpoint_keeps_its_labels_and_its_expiry(wire_0_38):
    model = wire_0_38.model()
    fields = {"path": "a", "ttl_seconds": 3600, "user_metadata": {"k": "v"}, "overwrite": False}
    path = wire_0_38.result(wire_0_38.send("save_weights", model, fields))["path"]
    (listed,) = wire_0_38.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
    assert listed["user_metadata"] == {"k": "v"}
    assert listed["expires_at"] > listed["time"]
    replaced = wire_0_38.send("save_weights", model, {**fields, "overwrite": True})
    assert wire_0_38.result(replaced)["path"] == path
    ttl = f"{wire_0_38.root}/api/v1/training_runs/{model}/checkpoints/weights/a/ttl"
    assert requests.put(ttl, json={"ttl_seconds": 7200}, timeout=60).status_code == 200
    assert wire_0_38.get(f"training_runs/{model}/checkpoints").json()["checkpoints"][0]["expires_at"]
    assert requests.put(ttl, json={"ttl_seconds": None}, timeout=60).status_code == 200
    assert wire_0_38.get(f"training_runs/{model}/checkpoints").json()["checkpoints"][0]["expires_at"] is None
    short = requests.put(ttl, json={"ttl_seconds": 60}, timeout=60)
    assert short.status_code == 422
    assert "3600" in short.json()["detail"]


def test_external_weights_can_be_downloaded_by_link(wire_0_38):
    model = wire_0_38.model()
    saved = wire_0_38.result(wire_0_38.send("save_weights_external", model, {"path": "out"}))
    assert saved["path"] == f"tinker://{model}/external_weights/out"
    assert saved["size_bytes"] > 0
    links = wire_0_38.get(f"training_runs/{model}/checkpoints/external_weights/out/external_weights_urls").json()
    (url,) = links["urls"].values()
    assert requests.get(url, timeout=60).content[:2] == b"\x1f\x8b"
    rejected = wire_0_38.post(
        "save_weights_external", {"model_id": model, "seq_id": 9, "path": "o", "age_encryption_recipients": ["age1"]}
    )
    assert rejected.status_code == 422


def test_weights_can_be_copied_into_another_run(wire_0_38):
    session = wire_0_38.session()
    model = wire_0_38.model(session)
    wire_0_38.learn(model)
    path, loss = wire_0_38.save(model, "a"), wire_0_38.loss(model)
    copies = [
        wire_0_38.ok("copy_weights", {"source_path": path, **to})["tinker_path"]
        for to in ({"destination_project_id": "p"}, {"session_id": session, "model_seq_id": 5})
    ]
    assert copies[1] == f"tinker://{session}:train:5/weights/a"
    for number, copy in enumerate(copies, 20):
        body = {"session_id": session, "model_seq_id": number, "path": copy, "optimizer": False}
        made = wire_0_38.result(wire_0_38.ok("load_weights", body))["model_id"]
        wire_0_38.seq = 0
        assert wire_0_38.loss(made) == loss
    assert wire_0_38.post("copy_weights", {"source_path": path}).status_code == 422
