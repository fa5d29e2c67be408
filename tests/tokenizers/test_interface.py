"""The interface of transformers' tokenizers; compared with transformers if it is installed."""

import threading

import numpy
import pytest
import tokenizer_folders as folders

from tinkex_sync.tokenizers import load_tokenizer

pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not in this environment")

QWEN = {
    "tokenizer_class": "Qwen2TokenizerFast",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|end|>",
    "unk_token": None,
    "model_max_length": 4096,
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
}
LLAMA = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "unk_token": "<|end|>",
}
SPECIALS = ["<|end|>", "<|im_start|>", "<|im_end|>"]
CHAT = [{"role": "user", "content": "hello"}]


def write(folder, kind):
    if kind == "qwen":
        folders.bpe(folder, QWEN, specials=SPECIALS, plain=["<tool>"])
    elif kind == "llama":
        folders.bpe(folder, LLAMA, specials=["<|begin|>", "<|end|>"], first="<|begin|>")
    else:
        folders.kimi(folder)


@pytest.fixture
def load(tmp_path):
    def load(kind):
        if kind == "bytes":
            return load_tokenizer("tinkex/tiny")
        if kind == "kimi":
            pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
        write(tmp_path, kind)
        return load_tokenizer(str(tmp_path))

    return load


KINDS = ("bytes", "qwen", "llama", "kimi")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_interface_that_scripts_and_renderers_use(load, kind):
    tokenizer = load(kind)
    assert isinstance(tokenizer.name_or_path, str)
    ids = tokenizer("hello")["input_ids"]
    assert tokenizer("hello").attention_mask == [1] * len(ids)
    assert tokenizer.encode("hello", add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.batch_decode([ids, ids], skip_special_tokens=True) == ["hello", "hello"]
    assert tokenizer.decode(numpy.array(ids), True, clean_up_tokenization_spaces=False) == "hello"
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(tokens) == ids
    assert tokenizer.tokenize("hello", add_special_tokens=True) == tokens
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) == tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == tokenizer.eos_token
    assert len(tokenizer) == len(tokenizer.get_vocab())
    assert tokenizer.eos_token in tokenizer.all_special_tokens
    assert tokenizer.eos_token_id in tokenizer.all_special_ids
    assert tokenizer.special_tokens_map["eos_token"] == tokenizer.eos_token
    with pytest.raises(TypeError, match="unknown_option"):
        tokenizer("hello", unknown_option=True)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_padded_truncated_and_returned_as_tensors(load, kind):
    tokenizer = load(kind)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    texts = ["a", "a b c d"]
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(texts, return_tensors="np")
    batch = tokenizer(texts, padding=True, return_tensors="np")
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist(), reverse=True)
    assert batch.input_ids[0][-1] == tokenizer.pad_token_id
    assert tokenizer.encode("a b c d", truncation=True, max_length=2) == tokenizer.encode("a b c d")[:2]
    assert [len(row) for row in tokenizer(texts, max_length=3, padding="max_length", truncation=True).input_ids] == [
        3,
        3,
    ]
    assert tokenizer("a", return_tensors="np")["input_ids"].ndim == 2
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="needs a pad_token"):
        tokenizer(texts, padding=True)


def test_a_special_token_outside_the_vocabulary_is_refused(load):
    tokenizer = load("qwen")
    with pytest.raises(ValueError, match="pad_token must be a token of the vocabulary"):
        tokenizer.pad_token = "<|nowhere|>"
    assert tokenizer.pad_token == "<|end|>"


@pytest.mark.parametrize("kind", ["qwen", "kimi"])
def test_special_tokens_in_a_text_can_be_encoded_as_plain_text(load, kind):
    tokenizer = load(kind)
    special = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [special]
    split = tokenizer.encode("<|im_end|>", add_special_tokens=False, split_special_tokens=True)
    assert special not in split
    assert tokenizer.decode(split) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [special]


def test_splitting_special_tokens_in_one_thread_does_not_change_another(load):
    tokenizer = load("qwen")
    wrong = []

    def encode(split):
        for _ in range(300):
            length = len(tokenizer.encode("<|im_end|>", add_special_tokens=False, split_special_tokens=split))
            if (length == 1) == split:
                wrong.append(split)

    threads = [threading.Thread(target=encode, args=(split,)) for split in (True, False, True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_chat_template_returns_what_calling_the_tokenizer_returns(load):
    tokenizer = load("qwen")
    tokens = tokenizer.apply_chat_template(CHAT)
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_tensors="np")
    assert encoded.input_ids.tolist() == [tokens]
    assert encoded.attention_mask.tolist() == [[1] * len(tokens)]
    with pytest.raises(TypeError, match="continue_final_message"):
        tokenizer.apply_chat_template(CHAT, continue_final_message=True)
    with pytest.raises(TypeError, match="one conversation"):
        tokenizer.apply_chat_template([CHAT, CHAT])


@pytest.mark.parametrize("kind", ["qwen", "llama"])
def test_the_interface_equals_that_of_transformers_on_the_same_files(load, tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not in this environment")
    mine = load(kind)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    names = ["bos", "eos", "pad", "unk", "sep", "cls", "mask"]
    for name in (*(f"{name}_token" for name in names), *(f"{name}_token_id" for name in names)):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert len(mine) == len(theirs)
    assert mine.vocab_size == theirs.vocab_size
    assert mine.get_vocab() == theirs.get_vocab()
    assert set(mine.all_special_ids) == set(theirs.all_special_ids)
    assert mine.name_or_path == theirs.name_or_path
    assert mine.model_max_length == theirs.model_max_length
    for text in folders.TEXTS:
        for options in ({}, {"truncation": True, "max_length": 3}, {"add_special_tokens": False}):
            assert mine(text, **options).input_ids == list(theirs(text, **options)["input_ids"]), (text, options)
        assert mine.tokenize(text) == theirs.tokenize(text), text
        split = mine.encode(text, split_special_tokens=True)
        assert split == list(theirs.encode(text, split_special_tokens=True)), text
        assert mine.convert_ids_to_tokens(split) == theirs.convert_ids_to_tokens(split)
    for each in (mine, theirs):
        each.pad_token = each.eos_token
    options = {"padding": True, "truncation": True, "max_length": 5, "return_tensors": "np"}
    ours, other = mine(folders.TEXTS, **options), theirs(folders.TEXTS, **options)
    for name in ("input_ids", "attention_mask"):
        assert ours[name].tolist() == other[name].tolist()
