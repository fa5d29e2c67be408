"""Short representations of values for error messages."""

import time

import pytest

from tinkex_sync.local.shortened import shortened


@pytest.mark.parametrize("value", [None, True, 1.5, "text", [1, 2], {"a": [None]}])
def test_a_short_value_is_shown_completely(value):
    assert shortened(value) == repr(value)


@pytest.mark.parametrize("value", ["x" * 1000, 10**500, list(range(1000)), {"a" * 100: ["b" * 100] * 9}], ids=type)
def test_a_long_value_is_cut_to_80_characters(value):
    assert len(shortened(value)) <= 80
    assert "..." in shortened(value)


def test_the_cost_does_not_depend_on_the_number_of_elements():
    value = ["x" * 100] * 10_000_000
    began = time.process_time()
    shortened(value)
    assert time.process_time() - began < 0.1
