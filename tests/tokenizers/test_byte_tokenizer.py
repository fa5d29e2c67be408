from __future__ import annotations

import pytest

from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.mark.parametrize("text", ["", "plain", "naïve café", "日本語", "🙂 and\n\ttabs\x00"])
def test_text_survives_the_round_trip(text):
    tokens = TOKENIZER.encode(text)
    assert tokens == list(text.encode("utf-8"))
    assert TOKENIZER.decode(tokens) == text


def test_special_tokens_lie_behind_the_bytes_and_are_not_text():
    specials = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id}
    assert specials == set(range(256, TOKENIZER.vocab_size))
    assert TOKENIZER.decode([TOKENIZER.bos_token_id, 104, 105, TOKENIZER.eos_token_id]) == "hi"


def test_broken_utf8_becomes_a_replacement_character():
    assert TOKENIZER.decode([104, 0xC3, 105]) == "h\ufffdi"


@pytest.mark.parametrize("token", [-1, 258, 100000])
def test_a_token_outside_the_vocabulary_is_named(token):
    with pytest.raises(ValueError, match=f"token {token} at index 1.*0 to 257"):
        TOKENIZER.decode([104, token])


def test_what_has_no_utf8_form_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud800' at index 2"):
        TOKENIZER.encode("ab\ud800")
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        TOKENIZER.encode(b"ab")
