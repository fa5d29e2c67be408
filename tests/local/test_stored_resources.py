"""Lists and descriptions of stored resources."""

from datetime import datetime, timedelta, timezone

import pytest


def test_run_is_described_with_its_last_checkpoints(wire):
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


def test_lists_are_paged_newest_first(wire):
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
def test_error_names_an_invalid_page_parameter(wire, bad):
    response = wire.get("training_runs", **bad)
    assert response.status_code == 422
    assert next(iter(bad)) in response.json()["detail"]
