"""Creation of models: optimizers, and models created by loading weights (protocol 0.38.0)."""

import pytest
from scripted_server import Answer, bare_session

import tinkex_sync
from tinkex_sync import types
from tinkex_sync.clients.model_creation import ModelFromCheckpoint, NewModel
from tinkex_sync.clients.training import TrainingClient
from tinkex_sync.errors import APIStatusError
from tinkex_sync.local import LocalServer

pytest.importorskip("numpy")

PATH = "tinker://run-1/weights/c1"
DIMUON = types.DimuonOptimizerConfig()
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints([1, 2, 3]),
    loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]},
)


@pytest.fixture
def scripted():
    with bare_session(protocol="0.38") as (server, session):
        server.defaults["get_info"] = Answer(body={})
        yield server, session


def create(session, model):
    with session.calling(session.source, "test") as call:
        return model.create(session, call, None)


def test_dimuon_parameters_are_sent_as_optimizer_params(scripted):
    server, session = scripted
    server.script("optim_step", Answer(body={"request_id": "req-1"}))
    server.script("retrieve_future", Answer(body={"metrics": {}}))
    TrainingClient(session, "model-1").optim_step(types.DimuonParams(0.01, grad_clip_norm=1))
    (sent,) = server.sent("optim_step")
    assert sent.body == {
        "model_id": "model-1",
        "optimizer_params": {"type": "dimuon", "learning_rate": 0.01, "grad_clip_norm": 1, "beta1": 0.9},
        "seq_id": 1,
    }


@pytest.mark.parametrize("wrong", [{"learning_rate": -1}, {"learning_rate": 1, "beta1": 1.0}])
def test_dimuon_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="DimuonParams"):
        types.DimuonParams(**wrong)


@pytest.mark.parametrize("wrong", [None, {"learning_rate": 1}, DIMUON])
def test_values_that_are_not_optimizer_parameters_are_refused(scripted, wrong):
    server, session = scripted
    training = TrainingClient(session, "model-1")
    with pytest.raises(TypeError, match="AdamParams or DimuonParams"):
        training.optim_step(wrong)
    with pytest.raises(TypeError, match="AdamParams or DimuonParams"):
        training.train_step([DATUM], "cross_entropy", wrong)
    assert not server.requests


def test_one_request_creates_a_model_and_loads_its_weights(scripted):
    server, session = scripted
    server.script("load_weights", Answer(body={"request_id": "req-1"}))
    server.script("retrieve_future", Answer(body={"type": "load_weights", "model_id": "sess-1:train:0"}))
    training = create(session, ModelFromCheckpoint(PATH, {"a": "b"}, True, "org/other", "tok", DIMUON))
    assert training.model_id == "sess-1:train:0"
    assert server.sent("load_weights")[0].body == {
        "session_id": session.session_id,
        "model_seq_id": 0,
        "path": PATH,
        "optimizer": True,
        "base_model": "org/other",
        "user_metadata": {"a": "b"},
        "optimizer_config": {"type": "dimuon", "version": 1},
        "weights_access_token": "tok",
    }
    assert not server.sent("create_model") and not server.sent("weights_info")


def test_the_model_id_has_its_usual_form_if_the_server_does_not_return_it(scripted):
    server, session = scripted
    server.script("load_weights", Answer(body={"request_id": "req-1"}))
    server.script("retrieve_future", Answer(body={"type": "load_weights"}))
    assert create(session, ModelFromCheckpoint(PATH, None, False)).model_id == f"{session.session_id}:train:0"


@pytest.mark.parametrize("announced", [None, False])
def test_a_server_without_creation_by_loading_gets_three_requests(announced):
    with bare_session(protocol="0.38") as (server, session):
        config = types.ServerConfigResponse(create_model_via_load_weights=announced)
        session.negotiation.apply_config(config)
        if announced is None:
            server.script("load_weights", Answer(422, {"detail": "model_id: field required"}))
        server.script("weights_info", Answer(body={"base_model": "b", "is_lora": True, "lora_rank": 4}))
        server.script("create_model", Answer(body={"request_id": "req-1"}))
        server.script("load_weights", Answer(body={"request_id": "req-2"}))
        server.script(
            "retrieve_future",
            Answer(body={"type": "create_model", "model_id": "m"}),
            Answer(body={"type": "load_weights", "path": PATH}),
        )
        assert create(session, ModelFromCheckpoint(PATH, None, False, None, "tok")).model_id == "m"
        assert server.sent("create_model")[0].body["model_seq_id"] == 0
        assert server.sent("load_weights")[-1].body["weights_access_token"] == "tok"


def test_the_repr_of_a_model_does_not_contain_the_access_token():
    assert "secret" not in repr(ModelFromCheckpoint(PATH, None, False, None, "secret"))


@pytest.mark.parametrize("wrong", [{"base_model": ""}, {"weights_access_token": 3}])
def test_invalid_arguments_of_a_checkpoint_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelFromCheckpoint(PATH, None, False, **wrong)
    with pytest.raises(TypeError, match="DimuonOptimizerConfig"):
        ModelFromCheckpoint(PATH, None, False, optimizer={"type": "dimuon"})


def test_the_embedded_server_creates_models_with_and_without_optimizer_state():
    with (
        LocalServer(protocol="0.38") as server,
        tinkex_sync.ServiceClient(base_url=server.base_url, api_key="k", protocol="auto") as service,
    ):
        training = service.create_lora_training_client("tinkex/tiny", 4, optimizer=types.AdamOptimizerConfig())
        assert training.get_info().optimizer_config == {"type": "adamw"}
        training.train_step([DATUM], "cross_entropy", types.AdamParams(learning_rate=0.01))
        path = training.save_state("c1").path
        after = [training.train_step([DATUM], "cross_entropy", types.AdamParams()).metrics["loss:sum"]]
        again = service.create_training_client_from_state_with_optimizer(path)
        assert again.train_step([DATUM], "cross_entropy", types.AdamParams()).metrics["loss:sum"] == after[0]
        assert service.submit_create_training_client_from_state(path).result(30).model_id != again.model_id
        with pytest.raises(APIStatusError, match="dimuon"):
            service.create_lora_training_client("tinkex/tiny", 4, optimizer=DIMUON)
        with pytest.raises(ValueError, match="gspx"):
            training.forward([DATUM], "gspx")


def test_models_are_numbered_without_gaps(scripted):
    server, session = scripted
    model = NewModel("b", types.LoraConfig(4))
    for number in range(2):
        server.script("create_model", Answer(body={"request_id": f"req-{number}"}))
        server.script("retrieve_future", Answer(body={"type": "create_model", "model_id": f"m{number}"}))
        with session.calling(session.source, "test") as call:
            assert model.create(session, call, None).model_id == f"m{number}"
    assert [one.body["model_seq_id"] for one in server.sent("create_model")] == [0, 1]
