"""Options of samples of protocol 0.38.0, on the embedded server."""

import pickle

import pytest
from scripted_server import Answer, bare_session

import tinkex_sync
from tinkex_sync import SamplingClient, TrainingClient, types
from tinkex_sync.local import LocalServer
from tinkex_sync.sampling.options import OptionIgnoredError

np = pytest.importorskip("numpy")

PROMPT = types.ModelInput.from_ints([10, 20, 30, 40, 50])
ONE = types.SamplingParams(max_tokens=2, temperature=0.0, seed=1)


@pytest.fixture(scope="module")
def server():
    with LocalServer(protocol="0.38") as made:
        yield made


@pytest.fixture(scope="module", params=["0.38", "auto"])
def sampler(request, server):
    with tinkex_sync.ServiceClient(base_url=server.base_url, api_key="k", protocol=request.param) as service:
        model = service.get_server_capabilities().supported_models[0].model_name
        yield service.create_sampling_client(base_model=model)


def test_the_most_probable_tokens_are_returned_for_each_position_of_the_completion(sampler):
    (sampled,) = sampler.sample(PROMPT, 1, ONE, topk_sample_logprobs=3).sequences
    assert [len(row) for row in sampled.topk_sampled_logprobs] == [3, 3]
    for token, logprob, row in zip(sampled.tokens, sampled.logprobs, sampled.topk_sampled_logprobs):
        assert row[0][0] == token  # temperature 0 samples the most probable token
        assert row[0][1] == pytest.approx(logprob, abs=1e-5)


@pytest.mark.parametrize("given", ["array", "tensor", "sparse"])
def test_target_tokens_get_their_log_probabilities(sampler, given):
    own = [20, 30, 40, 50]
    targets = {
        "array": np.array(own).reshape(4, 1),
        "tensor": types.TensorData(data=own, dtype="int64", shape=[4, 1]),
        "sparse": types.TensorData(
            data=[20, 50], dtype="int64", shape=[4, 1], sparse_crow_indices=[0, 1, 1, 1, 2], sparse_col_indices=[0, 0]
        ),
    }[given]
    response = sampler.sample(PROMPT, 1, ONE, True, target_prompt_logprobs=targets)
    found, wanted = response.target_prompt_logprobs, response.prompt_logprobs[1:]
    if given == "sparse":
        wanted = [wanted[0], wanted[-1]]
    assert list(found.data) == pytest.approx(wanted, abs=1e-5)


def test_alternatives_are_returned_for_each_position_of_the_prompt(sampler):
    response = sampler.submit_sample(PROMPT, 1, ONE, prompt_alt_tokens_k=3).result(30)
    assert response.prompt_alt_tokens.tokens.shape == response.prompt_alt_tokens.logprobs.shape == [4, 3]


def test_log_probabilities_can_be_limited_to_the_last_tokens(sampler):
    whole = sampler.compute_logprobs(PROMPT)
    assert sampler.compute_logprobs(PROMPT, 2) == [None, None, None, *whole[-2:]]
    assert sampler.submit_compute_logprobs(PROMPT, 2).result(30) == [None, None, None, *whole[-2:]]


def test_completions_have_the_sequence_ids_that_the_server_returned_at_acceptance(sampler):
    (first, second) = sampler.sample(PROMPT, 2, ONE).sequences
    assert first.sequence_id and second.sequence_id and first.sequence_id != second.sequence_id


def test_sample_many_has_the_same_options(sampler):
    responses = list(sampler.sample_many([PROMPT] * 3, 1, ONE, topk_sample_logprobs=2))
    assert [len(response.sequences[0].topk_sampled_logprobs[0]) for response in responses] == [2, 2, 2]
    with pytest.raises(TypeError, match="topk_samples"):
        sampler.sample_many([PROMPT], 1, ONE, topk_samples=2)


TARGETS = types.TensorData(data=[1, 2, 3, 4], dtype="int64", shape=[4, 1])


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"topk_sample_logprobs": -1}, ValueError, "topk_sample_logprobs .* not -1"),
        ({"prompt_alt_tokens_k": 1.5}, ValueError, "prompt_alt_tokens_k .* not 1.5"),
        ({"prompt_logprobs_last_n": 2}, ValueError, "include_prompt_logprobs=True"),
        ({"include_prompt_logprobs": True, "prompt_logprobs_last_n": 5}, ValueError, "from 1 to 4, not 5"),
        ({"include_prompt_logprobs": True, "prompt_logprobs_last_n": True}, ValueError, "not True"),
        ({"target_prompt_logprobs": [1, 2]}, TypeError, "not list"),
        ({"target_prompt_logprobs": np.ones((4, 1))}, ValueError, "int64, not float32"),
        ({"target_prompt_logprobs": np.array([1, 2, 3, 4])}, ValueError, r"K columns; its shape is \[4\]"),
        ({"target_prompt_logprobs": np.array([[1, 2, 3]])}, ValueError, "4 rows"),
    ],
)
def test_invalid_options_are_refused_before_a_request_is_sent(sampler, options, kind, words):
    for way in (sampler.sample, sampler.submit_sample):
        with pytest.raises(kind, match=words):
            way(PROMPT, 1, ONE, **options)


@pytest.fixture
def scripted():
    with bare_session(protocol="0.38") as (server, session):
        yield server, SamplingClient(session, "sess-1:sample:0", record_stability_info=True)


def script_sample(server, result, **promise):
    server.script("asample", Answer(body={"request_id": "req-1", **promise}))
    server.script("retrieve_future", Answer(body=result))


SAMPLED = {"sequences": [{"stop_reason": "stop", "tokens": [1]}]}


def test_options_that_are_not_set_are_not_sent(scripted):
    server, sampler = scripted
    script_sample(server, SAMPLED)
    sampler.sample(PROMPT, 1, ONE)
    assert not {"topk_sample_logprobs", "target_prompt_logprobs", "prompt_alt_tokens_k"} & set(
        server.sent("asample")[0].body
    )
    assert server.sent("asample")[0].body["record_stability_info"] is True
    assert pickle.loads(pickle.dumps(sampler))._record_stability_info is True


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({"prompt_alt_tokens_k": 1}, SAMPLED),
        (
            {"include_prompt_logprobs": True, "prompt_logprobs_last_n": 1},
            {**SAMPLED, "prompt_logprobs": [None, -1.0, -1.0, -1.0, -2.0]},
        ),
    ],
)
def test_an_option_that_the_server_ignores_raises_with_the_response(scripted, options, result):
    server, sampler = scripted
    for way in ("sample", "submit_sample"):
        script_sample(server, result)
        with pytest.raises(OptionIgnoredError, match="too old") as caught:
            response = getattr(sampler, way)(PROMPT, 1, ONE, **options)
            response.result(20)
        assert isinstance(caught.value, RuntimeError)
        assert caught.value.response.sequences[0].tokens == [1]
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("name", [None, "n"])
def test_sampling_clients_made_by_a_training_client_record_stability_info(name):
    saved = {"path": "tinker://m/sampler_weights/n"} if name else {"sampling_session_id": "sampler-1"}
    with bare_session() as (server, session):
        session.join("sess-1")
        server.script("save_weights_for_sampler", Answer(body={"request_id": "req-1"}))
        server.script("retrieve_future", Answer(body=saved))
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler-1"})
        training = TrainingClient(session, "model-1")
        made = [training.save_weights_and_get_sampling_client(name, record_stability_info=True)]
        made.append(training.create_sampling_client("tinker://m/sampler_weights/n", None, True))
        for sampler in made:
            script_sample(server, SAMPLED)
            sampler.sample(PROMPT, 1, ONE)
        assert [one.body["record_stability_info"] for one in server.sent("asample")] == [True, True]


def test_sequence_ids_of_another_number_than_completions_are_dropped(scripted, caplog):
    server, sampler = scripted
    script_sample(server, SAMPLED, sample_sequence_ids=["a", "b"])
    (sampled,) = sampler.sample(PROMPT, 1, ONE).sequences
    assert (sampled.tokens, sampled.sequence_id) == ([1], None)
    assert "Sequence ids dropped: ids=2 completions=1 request_id=req-1" in caplog.text


def test_target_tokens_are_sent_as_a_tensor(scripted):
    server, sampler = scripted
    script_sample(server, SAMPLED)
    sampler.sample(PROMPT, 1, ONE, target_prompt_logprobs=TARGETS)
    assert server.sent("asample")[0].body["target_prompt_logprobs"] == {
        "data": [1, 2, 3, 4],
        "dtype": "int64",
        "shape": [4, 1],
    }
