"""Sampling: encoded requests, refused parameters and decoded completions."""

import pytest
from wire_bodies import assert_encoded

from tinkex_sync import types


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (types.SamplingParams(), {"temperature": 1.0, "top_k": -1, "top_p": 1.0}),
        (
            types.SamplingParams(max_tokens=None, stop=[1], temperature=0),
            {"stop": [1], "temperature": 0.0, "top_k": -1, "top_p": 1.0},
        ),
        (
            types.SampleRequest(
                num_samples=2,
                prompt=types.ModelInput.from_ints([1]),
                sampling_params=types.SamplingParams(),
                sampling_session_id="x",
                seq_id=0,
                prompt_logprobs=False,
            ),
            {
                "num_samples": 2,
                "prompt": {"chunks": [{"tokens": [1]}]},
                "sampling_params": {"temperature": 1.0, "top_k": -1, "top_p": 1.0},
                "sampling_session_id": "x",
                "seq_id": 0,
                "prompt_logprobs": False,
                "topk_prompt_logprobs": 0,
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bodies_have_the_0_7_fields_in_wire_order_without_type(request_, body) -> None:
    assert_encoded(request_, body)


@pytest.mark.parametrize("name", ["max_token", "temprature"])
def test_a_misspelled_argument_is_refused(name) -> None:
    with pytest.raises(TypeError, match=name):
        types.SamplingParams(**{name: 1})


@pytest.mark.parametrize("stop", ["END", ["a", "b"], [1, 2], [], None])
def test_stop_is_text_a_list_of_texts_or_a_list_of_token_ids(stop) -> None:
    assert types.SamplingParams(stop=stop).stop == stop


@pytest.mark.parametrize("stop", [5, ["a", 1], [None], {"a": 1}])
def test_another_stop_is_refused_with_the_accepted_forms(stop) -> None:
    with pytest.raises(ValueError, match=r"SamplingParams\.stop: must be a string, a list of strings or a list"):
        types.SamplingParams(stop=stop)


def test_the_server_applies_its_defaults_to_parameters_that_are_none() -> None:
    assert types.SamplingParams().to_wire().keys() == {"temperature", "top_k", "top_p"}


def test_log_probabilities_are_decoded_with_none_where_no_token_precedes() -> None:
    response = types.SampleResponse.from_wire(
        {
            "sequences": [{"stop_reason": "stop", "tokens": [5], "logprobs": [-1]}],
            "prompt_logprobs": [None, -0.5],
            "topk_prompt_logprobs": [None, [[5, -0.5], [6, -1]]],
        }
    )
    assert response.sequences[0].logprobs == [-1.0]
    assert response.prompt_logprobs == [None, -0.5]
    assert response.topk_prompt_logprobs == [None, [(5, -0.5), (6, -1.0)]]
    assert response.prompt_cache_hit_tokens is None
