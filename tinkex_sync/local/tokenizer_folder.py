"""A folder with the tokenizer of the chat model, in the format of the library ``tokenizers``.

The response of get_info names the folder, so clients load the tokenizer as that of any other model, without a network.
Tokens 0 to 255 are bytes, as in :class:`~tinkex_sync.tokenizers.ByteTokenizer`, and the special tokens follow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

__all__ = ["write_tokenizer_folder"]

#: The format of ChatML, which many models use.
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_characters() -> List[str]:
    """Return the character that stands for each byte in a byte-level vocabulary, as in GPT-2."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(number) for number in range(256, 512))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def _added_token(content: str) -> Dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, "special": True, **flags}


def write_tokenizer_folder(folder: Path, special_tokens: Sequence[str], context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        folder: The folder, which is created.
        special_tokens: The special tokens in the order of their ids, from 256: first the begin of a text, last the end
            of a message.
        context: The length of the context of the model.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = {256 + index: _added_token(token) for index, token in enumerate(special_tokens)}
    tokenizer: Dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **token} for number, token in added.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: byte for byte, character in enumerate(_byte_characters())},
            "merges": [],
        },
    }
    config = {
        "added_tokens_decoder": {str(number): token for number, token in added.items()},
        "bos_token": special_tokens[0],
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": special_tokens[-1],
        "model_max_length": context,
        "pad_token": special_tokens[1],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=True), encoding="utf-8")
