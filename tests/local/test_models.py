"""Base models, checkpoints and samplers."""

import pytest


def test_extra_name_uses_the_tiny_model(wire):
    names = [one["model_name"] for one in wire.get("get_server_capabilities").json()["supported_models"]]
    assert "tinkex/tiny" in names
    assert "Qwen/Qwen3-8B" in names
    model = wire.model(base_model="Qwen/Qwen3-8B")
    assert wire.ok("get_info", {"model_id": model})["model_name"] == "Qwen/Qwen3-8B"
    assert wire.loss(model) == wire.loss(wire.model())


@pytest.mark.parametrize("path", ["create_model", "create_sampling_session"])
def test_error_for_an_unknown_base_model_lists_the_known_ones(wire, path):
    body = {"session_id": wire.session(), "base_model": "no/such", "sampling_session_seq_id": 0}
    response = wire.post(path, body)
    assert response.status_code == 400
    assert "'no/such'" in response.json()["detail"]
    assert "tinkex/tiny" in response.json()["detail"]


def complete_twice(wire, sampler, seq=0):
    """Return two completions of one fixed prompt."""
    return wire.result(wire.sample(sampler, seq, num_samples=2).json())["sequences"]


def test_loaded_checkpoint_continues_exactly_like_the_saved_model(wire):
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


def test_new_model_can_load_a_checkpoint(wire):
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


def test_error_names_a_checkpoint_that_cannot_be_loaded(wire):
    model = wire.model()
    sampler_path = wire.save(model, "s", "save_weights_for_sampler")
    for path, why in ((f"tinker://{model}/weights/none", "no checkpoint"), (sampler_path, "sampling only")):
        failed = wire.result(wire.send("load_weights", model, {"path": path, "optimizer": False}))
        assert failed["category"] == "user"
        assert path in failed["error"]
        assert why in failed["error"]


def test_sampler_of_saved_weights_is_not_changed_by_training(wire):
    session = wire.session()
    model = wire.model(session)
    wire.result(wire.backward(model))
    wire.result(wire.step(model, learning_rate=0.1))
    path = wire.save(model, "then", "save_weights_for_sampler")
    number = {"sampling_session_seq_id": 7}
    ephemeral = wire.result(wire.send("save_weights_for_sampler", model, number))
    assert ephemeral["path"] is None
    named, base = wire.sampler(session, 8, model_path=path), wire.sampler(session, 9)
    before = complete_twice(wire, named)
    assert complete_twice(wire, ephemeral["sampling_session_id"]) == before
    assert complete_twice(wire, base) != before
    wire.result(wire.backward(model))
    wire.result(wire.step(model, learning_rate=0.1))
    assert complete_twice(wire, named, 1) == before
    assert wire.get(f"samplers/{named}").json() == {
        "sampler_id": named,
        "base_model": "tinkex/tiny",
        "model_path": path,
    }
    taken = wire.result(wire.send("save_weights_for_sampler", model, number))
    assert taken["category"] == "user"


def test_training_checkpoint_can_be_sampled_from(wire):
    session = wire.session()
    model = wire.model(session)
    wire.learn(model)
    paths = [wire.save(model, "x"), wire.save(model, "x", "save_weights_for_sampler")]
    samplers = [wire.sampler(session, number, model_path=path) for number, path in enumerate(paths)]
    assert complete_twice(wire, samplers[0]) == complete_twice(wire, samplers[1])
