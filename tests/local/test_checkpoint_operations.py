"""Saving, labelling, copying and downloading of checkpoints."""

import requests


def test_checkpoint_keeps_its_labels_and_its_expiry(wire_0_38):
    model = wire_0_38.model()
    fields = {"path": "a", "ttl_seconds": 3600, "user_metadata": {"k": "v"}, "overwrite": False}
    path = wire_0_38.result(wire_0_38.send("save_weights", model, fields))["path"]
    (listed,) = wire_0_38.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
    assert listed["user_metadata"] == {"k": "v"}
    assert listed["expires_at"] > listed["time"]
    rejected = wire_0_38.result(wire_0_38.send("save_weights", model, fields))
    assert "weights/a" in rejected["error"]
    # Clients of protocol 0.7.0 do not send the field, so the new checkpoint replaces the old one.
    assert wire_0_38.save(model, "a") == path
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
    links = wire_0_38.get(
        f"training_runs/{model}/checkpoints/external_weights/out/external_weights_urls"
    ).json()
    (url,) = links["urls"].values()
    assert requests.get(url, timeout=60).content[:2] == b"\x1f\x8b"
    rejected = wire_0_38.post(
        "save_weights_external",
        {"model_id": model, "seq_id": 9, "path": "o", "age_encryption_recipients": ["age1"]},
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
