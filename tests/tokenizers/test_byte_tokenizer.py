from __future__ import annotations

import pytest

from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.mark.parametrize("text", ["", "plain", "naïve café", "日本語", "🙂 and\n\ttabs\x00"])
def test_decode_reverses_encode(text):
    tokens = TOKENIZER.encode(text)
    assert tokens == list(text.encode("utf-8"))
    assert TOKENIZER.decode(tokens) == text


def test_special_tokens_follow_the_bytes_and_decode_to_no_text():
    specials = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id}
    assert specials == set(range(256, TOKENIZER.vocab_size))
    assert TOKENIZER.decode([TOKENIZER.bos_token_id, 104, 105, TOKENIZER.eos_token_id]) == "hi"


def test_invalid_utf8_decodes_to_a_replacement_character():
    assert TOKENIZER.decode([104, 0xC3, 105]) == "h\ufffdi"


@pytest.mark.parametrize("token", [-1, 258, 100000])
def test_error_names_a_token_outside_the_vocabulary(token):
    with pytest.raises(ValueError, match=f"token {token} at index 1.*0 to 257"):
        TOKENIZER.decode([104, token])


def test_encode_rejects_text_without_utf8_form_and_names_the_index():
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud800' at index 2"):
        TOKENIZER.encode("ab\ud800")
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        TOKENIZER.encode(b"ab")
