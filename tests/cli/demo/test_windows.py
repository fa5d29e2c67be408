"""Windows of the demo's text: each round covers all tokens, and each token is predicted by those before it."""

import random
from itertools import islice

from tinkex_sync.cli.demo.windows import next_token_datum, random_windows


def test_a_datum_predicts_each_token_from_those_before_it():
    datum = next_token_datum([5, 6, 7])
    assert datum.model_input.to_ints() == [5, 6]
    assert list(datum.loss_fn_inputs["target_tokens"].data) == [6, 7]
    assert list(datum.loss_fn_inputs["weights"].data) == [1.0, 1.0]


def test_windows_have_at_most_one_token_more_than_their_size():
    tokens = list(range(100))
    windows = list(islice(random_windows(tokens, 16, random.Random(1)), 50))
    assert all(9 <= len(window) <= 17 for window in windows)
    assert all(window == list(range(window[0], window[0] + len(window))) for window in windows)
    assert {token for window in windows for token in window} == set(tokens)


def test_a_short_text_is_a_window_of_its_own():
    assert next(random_windows([1, 2, 3], 16, random.Random(1))) == [1, 2, 3]
