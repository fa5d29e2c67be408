"""The operations of the official clients: names, parameters, defaults, submitted forms and iterators."""

import inspect

import pytest

import tinkex_sync
from tinkex_sync.clients.rest import RestClient
from tinkex_sync.futures import Future

_LORA = "base_model, rank=32, seed=None, train_mlp=True, train_attn=True, train_unembed=True, user_metadata=None"
_STATE = "path, user_metadata=None"
_LOSS = "data, loss_fn, loss_fn_config=None"
_SAMPLE = "prompt, num_samples, sampling_params, include_prompt_logprobs=False, topk_prompt_logprobs=0"
_CHECKPOINT = "training_run_id, checkpoint_id"
_PATH = "tinker_path"

#: The parameters of the official 0.7.0 clients, in order, and the name of the result's type.
OPERATIONS = {
    tinkex_sync.ServiceClient: {
        "get_server_capabilities": ("", "GetServerCapabilitiesResponse"),
        "create_lora_training_client": (_LORA, "TrainingClient"),
        "create_training_client_from_state": (_STATE, "TrainingClient"),
        "create_training_client_from_state_with_optimizer": (_STATE, "TrainingClient"),
        "create_sampling_client": ("model_path=None, base_model=None, retry_config=None", "SamplingClient"),
    },
    tinkex_sync.TrainingClient: {
        "forward": (_LOSS, "ForwardBackwardOutput"),
        "forward_backward": (_LOSS, "ForwardBackwardOutput"),
        "forward_backward_custom": ("data, loss_fn", "ForwardBackwardOutput"),
        "optim_step": ("adam_params", "OptimStepResponse"),
        "save_state": ("name", "SaveWeightsResponse"),
        "load_state": ("path", "LoadWeightsResponse"),
        "load_state_with_optimizer": ("path", "LoadWeightsResponse"),
        "save_weights_for_sampler": ("name", "SaveWeightsForSamplerResponse"),
        "save_weights_and_get_sampling_client": ("name=None, retry_config=None", "SamplingClient"),
        "create_sampling_client": ("model_path, retry_config=None", "SamplingClient"),
        "get_info": ("", "GetInfoResponse"),
    },
    tinkex_sync.SamplingClient: {
        "sample": (_SAMPLE, "SampleResponse"),
        "compute_logprobs": ("prompt", "List[Optional[float]]"),
    },
    RestClient: {
        "list_training_runs": ("limit=20, offset=0", "TrainingRunsResponse"),
        "get_training_run": ("training_run_id", "TrainingRun"),
        "get_training_run_by_tinker_path": (_PATH, "TrainingRun"),
        "get_weights_info_by_tinker_path": (_PATH, "WeightsInfoResponse"),
        "list_checkpoints": ("training_run_id", "CheckpointsListResponse"),
        "list_user_checkpoints": ("limit=100, offset=0", "CheckpointsListResponse"),
        "delete_checkpoint": (_CHECKPOINT, "None"),
        "delete_checkpoint_from_tinker_path": (_PATH, "None"),
        "publish_checkpoint_from_tinker_path": (_PATH, "None"),
        "unpublish_checkpoint_from_tinker_path": (_PATH, "None"),
        "get_checkpoint_archive_url": (_CHECKPOINT, "CheckpointArchiveUrlResponse"),
        "get_checkpoint_archive_url_from_tinker_path": (_PATH, "CheckpointArchiveUrlResponse"),
        "get_session": ("session_id", "GetSessionResponse"),
        "list_sessions": ("limit=20, offset=0", "ListSessionsResponse"),
        "get_sampler": ("sampler_id", "GetSamplerResponse"),
    },
}
ROWS = [
    pytest.param(client, name, *row, id=f"{client.__name__}.{name}")
    for client, rows in OPERATIONS.items()
    for name, row in rows.items()
]
#: Methods without a submitted form, because they send no request or do not wait for a result.
ALONE = {"close", "status", "create_rest_client", "get_telemetry", "sample_many"}


def parameters(function, *, without=()):
    found = list(inspect.signature(function).parameters.values())[1:]
    return [(one.name, one.kind, one.default) for one in found if one.name not in without]


def returned(function):
    hint = inspect.signature(function).return_annotation
    return (hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))).replace("types.", "")


@pytest.mark.parametrize(("client", "name", "arguments", "result"), ROWS)
def test_an_operation_has_the_official_parameters_and_both_forms(client, name, arguments, result):
    blocking, submitting = getattr(client, name), getattr(client, f"submit_{name}")
    official = [one.split("=") for one in arguments.split(", ") if one]
    ours = [one for one in parameters(blocking) if one[1] is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [one[0] for one in ours[: len(official)]] == [one[0] for one in official]
    for (_, _, default), wanted in zip(ours, official):
        assert (default is inspect.Parameter.empty) if len(wanted) == 1 else (repr(default) == wanted[1])
    # Further parameters are optional.
    assert all(default is not inspect.Parameter.empty for _, _, default in ours[len(official) :])
    assert returned(blocking) == result
    assert returned(submitting) == f"Future[{result}]"
    timeout = inspect.signature(blocking).parameters["timeout"]
    assert timeout.kind is inspect.Parameter.KEYWORD_ONLY and timeout.default is None


@pytest.mark.parametrize("client", OPERATIONS, ids=lambda client: client.__name__)
def test_every_operation_has_a_submitted_form_with_the_same_parameters(client):
    names = {name for name in dir(client) if not name.startswith("_") and callable(getattr(client, name))}
    blocking = {name for name in names if not name.startswith(("submit_", "iter_")) and name not in ALONE}
    assert {name[len("submit_") :] for name in names if name.startswith("submit_")} == blocking
    for name in blocking:
        without = ("timeout",)
        submitting = getattr(client, f"submit_{name}")
        assert parameters(getattr(client, name), without=without) == parameters(submitting, without=without), name


@pytest.mark.parametrize("client", OPERATIONS, ids=lambda client: client.__name__)
def test_every_paged_call_has_an_iterator(client):
    lists = [name for name in dir(client) if name.startswith("list_")]
    paged = [name for name in lists if "offset" in inspect.signature(getattr(client, name)).parameters]
    assert bool(paged) == (client is RestClient)
    for name in paged:
        iterator = getattr(client, f"iter_{name[len('list_') :]}")
        assert returned(iterator).startswith("Iterator["), name


def test_create_rest_client_has_no_parameters():
    assert parameters(tinkex_sync.ServiceClient.create_rest_client) == []
    assert returned(tinkex_sync.ServiceClient.create_rest_client) == "RestClient"


def test_result_of_a_future_has_an_optional_timeout():
    assert inspect.signature(Future.result).parameters["timeout"].default is None
