"""Results of samples as numpy arrays."""

import sys

import numpy as np
import pytest

from tinkex_sync import MissingExtraError, types

PAIRS = [None, [(7, -0.5), (8, -1.5)], [(9, -0.25)]]


def test_completions_and_prompt_logprobs_can_be_read_as_arrays() -> None:
    sequence = types.SampledSequence(
        stop_reason="stop", tokens=[1, 2, 3], logprobs=[-0.5, -1.0, -2.0], topk_sampled_logprobs=PAIRS
    )
    assert sequence.tokens_np.dtype == np.int32
    assert sequence.tokens_np.tolist() == [1, 2, 3]
    assert sequence.logprobs_np.dtype == np.float32
    assert sequence.logprobs_np.tolist() == [-0.5, -1.0, -2.0]
    assert sequence.topk_logprobs == PAIRS
    response = types.SampleResponse(sequences=[sequence], prompt_logprobs=[None, -1.0], topk_prompt_logprobs=PAIRS)
    assert np.isnan(response.prompt_logprobs_np[0])
    assert response.prompt_logprobs_np[1:].tolist() == [-1.0]
    for topk in (sequence.topk_logprobs_np, response.topk_prompt_logprobs_np):
        assert topk.token_ids.tolist() == [[0, 0], [7, 8], [9, 0]]
        assert topk.logprobs.tolist() == [[-99999.0, -99999.0], [-0.5, -1.5], [-0.25, -99999.0]]


def test_arrays_of_values_that_were_not_requested_are_none() -> None:
    sequence = types.SampledSequence(stop_reason="stop", tokens=[])
    assert sequence.tokens_np.shape == (0,)
    assert sequence.logprobs_np is sequence.topk_logprobs is sequence.topk_logprobs_np is None
    response = types.SampleResponse(sequences=[sequence])
    assert response.prompt_logprobs_np is response.topk_prompt_logprobs_np is None


def test_each_access_returns_a_new_array() -> None:
    sequence = types.SampledSequence("stop", [1, 2], [-0.5, -1.0])
    sequence.tokens_np[:] = 0
    assert sequence.tokens == [1, 2]
    assert sequence.tokens_np.tolist() == [1, 2]


def test_the_error_for_missing_numpy_names_the_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingExtraError, match="pip install numpy"):
        print(types.SampledSequence(stop_reason="stop", tokens=[1]).tokens_np)
