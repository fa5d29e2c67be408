"""Requests that a server cannot fulfil raise errors of the right type, and the client stays usable."""

import pytest
from imitations import client
from lessons import ADAM, GREEDY, MODEL, current_logprobs, datum, model, prompt

from tinkex_sync import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    TinkexError,
    UnprocessableEntityError,
    types,
)


def outcome(profile, operate, rejected):
    """Return the result, or None if ``rejected`` contains the expected error of this server."""
    expected = rejected.get(profile.name)
    if expected is None:
        return operate()
    kind, text = expected
    with pytest.raises(kind, match=text) as caught:
        operate()
    assert type(caught.value) is kind
    return None


def test_unsupported_loss_raises_the_error_of_the_server(imitated, quick):
    learner = model(quick)
    data = datum()
    data.loss_fn_inputs.update(
        logprobs=types.TensorData(data=[-1.0] * 18, dtype="float32", shape=[18]),
        advantages=types.TensorData(data=[1.0] * 18, dtype="float32", shape=[18]),
    )
    del data.loss_fn_inputs["weights"]
    rejected = {
        "SkyRL": (UnprocessableEntityError, "'dro' is not supported"),
        "Hatchery": (InternalServerError, "'dro' is not implemented"),
    }
    outcome(imitated.profile, lambda: learner.forward_backward([data], "dro", {"beta": 0.1}), rejected)
    learner.train_step([datum()], "cross_entropy", ADAM)


def test_unsupported_sampling_parameter_raises_bad_request_error(imitated, user):
    sampler = user.create_sampling_client(base_model=MODEL)
    endless = types.SamplingParams(temperature=0.0, stop=[10])
    rejected = {"SkyRL": (BadRequestError, "max_tokens is required")}
    outcome(imitated.profile, lambda: sampler.sample(prompt(), 1, endless), rejected)
    rejected = {"SkyRL": (BadRequestError, "topk_prompt_logprobs is not supported")}
    response = outcome(imitated.profile, lambda: sampler.sample(prompt(), 1, GREEDY, True, 2), rejected)
    assert response is None or len(response.topk_prompt_logprobs[1]) == 2
    assert sampler.sample(prompt(), 1, GREEDY)


def test_rejected_learning_rate_raises_unprocessable_entity_error(imitated, quick):
    learner = model(quick)
    rejected = {"Hatchery": (UnprocessableEntityError, "learning_rate: must be above 0")}
    outcome(imitated.profile, lambda: learner.optim_step(types.AdamParams(learning_rate=0.0)), rejected)
    learner.optim_step(ADAM)


def test_name_of_an_existing_checkpoint_raises_conflict_error(imitated, quick):
    learner = model(quick)
    learner.save_state("once")
    rejected = dict.fromkeys(("SkyRL", "embedded"), (ConflictError, "already exists"))
    outcome(imitated.profile, lambda: learner.save_state("once"), rejected)
    assert learner.save_state("twice").path


def test_operation_that_the_server_lacks_raises_and_uses_no_number(imitated, quick):
    learner = model(quick)
    with pytest.raises((NotFoundError, UnprocessableEntityError), match=r"no such endpoint|extra keys"):
        learner.save_weights_external("for-download")
    learner.train_step([datum()], "cross_entropy", ADAM)
    assert [number for number, _ in imitated.numbers()] == [1, 2]


def test_errors_name_models_and_checkpoints_that_do_not_exist(very_quick):
    learner = model(very_quick)
    before = current_logprobs(learner)
    for operate in (
        lambda: very_quick.create_lora_training_client("no/such-model"),
        lambda: learner.load_state("tinker://missing-run/weights/nothing"),
        lambda: very_quick.create_training_client_from_state("tinker://missing-run/weights/nothing"),
        lambda: very_quick.create_sampling_client(model_path="tinker://missing-run/sampler_weights/nothing"),
        lambda: very_quick.create_rest_client().get_weights_info_by_tinker_path("tinker://missing-run/weights/x"),
    ):
        with pytest.raises(TinkexError, match=r"missing-run|no/such-model"):
            operate()
    assert current_logprobs(learner) == before


def test_rejected_api_key_raises_an_authentication_error(imitated):
    profile = imitated.profile
    wrong = {"TuFT": PermissionDeniedError, "Hatchery": AuthenticationError}.get(profile.name.partition(",")[0])
    if wrong is None:
        with client(imitated, api_key="another") as service:
            assert service.session_id
        return
    with pytest.raises(wrong, match="API key was refused: give api_key= or set TINKER_API_KEY"):
        client(imitated, api_key="another")
    # Some servers accept only bearer tokens.
    headers = {"Authorization": f"Bearer {imitated.key}"}
    if profile.bearer:
        with client(imitated, session_factory=_without_key, headers=headers) as service:
            assert service.session_id


def _without_key():
    import requests

    session = requests.Session()

    def strip(request):
        del request.headers["X-API-Key"]
        return request

    session.auth = strip
    return session


LISTS = {
    "training_runs": lambda rest, learner, sampler, path: rest.list_training_runs(limit=1000).training_runs,
    "training_run": lambda rest, learner, sampler, path: rest.get_training_run(learner.model_id),
    "run_checkpoints": lambda rest, learner, sampler, path: rest.list_checkpoints(learner.model_id),
    "checkpoints": lambda rest, learner, sampler, path: rest.list_user_checkpoints(limit=1000),
    "sessions": lambda rest, learner, sampler, path: rest.list_sessions(limit=1000),
    "session": lambda rest, learner, sampler, path: rest.get_session(rest.session.session_id),
    "sampler": lambda rest, learner, sampler, path: rest.get_sampler(sampler.sampling_session_id),
    "publish_checkpoint": lambda rest, learner, sampler, path: rest.publish_checkpoint_from_tinker_path(path),
    "unpublish_checkpoint": lambda rest, learner, sampler, path: rest.unpublish_checkpoint_from_tinker_path(path),
}


def test_stored_resources_are_listed_if_the_server_has_the_endpoint(imitated, quick):
    learner, rest = model(quick), quick.create_rest_client()
    path = learner.save_weights_for_sampler("kept").path
    sampler = quick.create_sampling_client(model_path=path)
    found = {}
    for name, call in LISTS.items():
        if name in imitated.profile.missing:
            with pytest.raises(NotFoundError, match="seems to have no such endpoint: (GET|POST|DELETE) http://"):
                call(rest, learner, sampler, path)
        else:
            found[name] = call(rest, learner, sampler, path)
    listed = found["run_checkpoints"].checkpoints
    assert [one.tinker_path for one in listed] == [path]
    assert (listed[0].time is None) == (imitated.profile.times == "null")
    assert listed[0].time is None or listed[0].time.tzinfo is not None
    if "training_runs" in found:
        assert learner.model_id in [run.training_run_id for run in found["training_runs"]]
        assert [run.training_run_id for run in rest.iter_training_runs(50)].count(learner.model_id) == 1
    if "checkpoints" in found:
        assert path in [one.tinker_path for one in found["checkpoints"].checkpoints]
    if "session" in found:
        assert learner.model_id in found["session"].training_run_ids
        assert quick.session_id in found["sessions"].sessions
    if "sampler" in found:
        assert found["sampler"].sampler_id == sampler.sampling_session_id
    assert rest.get_weights_info_by_tinker_path(path).lora_rank == 4


def test_archive_links_of_any_scheme_are_returned(imitated, quick):
    learner, rest = model(quick), quick.create_rest_client()
    for name, path in (
        ("training", learner.save_state("packed").path),
        ("sampler", learner.save_weights_for_sampler("packed-too").path),
    ):
        profile = imitated.profile
        if "checkpoint_archive" in profile.missing or (profile.archives.endswith("only") and name == "training"):
            with pytest.raises(NotFoundError):
                rest.get_checkpoint_archive_url_from_tinker_path(path)
        else:
            link = rest.get_checkpoint_archive_url_from_tinker_path(path)
            # Only a download refuses a URL of another scheme.
            assert link.url.startswith("file:///" if profile.archives == "file" else "http://")
            assert link.expires.tzinfo is not None


def test_deleted_checkpoint_no_longer_exists(imitated, very_quick):
    learner, rest = model(very_quick), very_quick.create_rest_client()
    path, kept = learner.save_state("gone").path, learner.save_state("kept").path
    rest.delete_checkpoint_from_tinker_path(path)
    assert [one.tinker_path for one in rest.list_checkpoints(learner.model_id).checkpoints] == [kept]
    with pytest.raises(TinkexError):
        learner.load_state(path)
    with pytest.raises(TinkexError):
        rest.delete_checkpoint_from_tinker_path(path)
    learner.load_state(kept)
