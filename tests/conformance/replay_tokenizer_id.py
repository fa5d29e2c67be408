"""Replay of the choice of a tokenizer for a model."""

from typing import Any, Dict, Optional

import pytest

from tinkex_sync.tokenizers import loading as tokenizers

from .registry import no_excuse, only, replay, same


@replay("tokenizer_id")
def tokenizer_id(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "model_name", "tokenizer_id")
    expected = only(case["expected"], "id", "kwargs", "exception")
    no_excuse(row)
    if "exception" in expected:
        assert expected["exception"] == "AssertionError"
        with pytest.raises(AssertionError):
            tokenizers.choose_tokenizer(given["model_name"], given["tokenizer_id"])
        return
    chosen = tokenizers.choose_tokenizer(given["model_name"], given["tokenizer_id"])
    assert chosen.id == expected["id"]
    assert same(chosen.kwargs, expected["kwargs"])
