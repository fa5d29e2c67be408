import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinkex_sync.errors import MissingExtraError
from tinkex_sync.tokenizers import loading
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

library = pytest.importorskip("tokenizers")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    """A tiny byte-level BPE with begin and end tokens, whose file enables truncation."""
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["hello hello world"] * 10, trainer)
    made.post_processor = library.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def kimi(tmp_path):
    """All bytes and two merges, with special tokens as in Kimi K2's repository."""
    pytest.importorskip("tiktoken")
    tokens = [bytes([n]) for n in range(256)] + [b"he", "中文".encode()[:3]]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (tmp_path / "tiktoken.model").write_bytes(b"".join(lines))
    added = {
        "258": {"content": "[BOS]", "special": True},
        "259": {"content": "[EOS]", "special": True},
        "260": {"content": "<tool>", "special": False},
    }
    config = {"bos_token": "[BOS]", "eos_token": "[EOS]", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_and_a_file_are_read_without_network(folder):
    tokenizer = loading.load_tokenizer(str(folder))
    ids = tokenizer.encode("hello world 🙂")
    assert ids[0] == tokenizer.bos_token_id == 0 and tokenizer.eos_token_id == 1
    assert len(ids) > 3, "truncation enabled by the file is off"
    assert tokenizer.encode("hello world 🙂", add_special_tokens=False) == ids[1:]
    assert tokenizer.decode(ids) == "<s>hello world 🙂"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world 🙂"
    assert tokenizer.vocab_size == tokenizer.backend.get_vocab_size(False)
    assert loading.load_tokenizer(str(folder / "tokenizer.json")).encode("hello") == tokenizer.encode("hello")


def test_errors_name_the_wrong_value(folder):
    tokenizer = loading.load_tokenizer(str(folder))
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        tokenizer.encode(b"x")
    with pytest.raises(ValueError, match="token -3 at index 1"):
        tokenizer.decode([2, -3])


def test_chat_template_of_the_model_is_rendered(folder):
    pytest.importorskip("jinja2")
    tokenizer = loading.load_tokenizer(str(folder))
    messages = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "[user]hello[assistant]"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(ValueError, match="no such role"):
        tokenizer.apply_chat_template([{"role": "bad", "content": ""}])


def test_kimi_k2_is_read_by_tiktoken(kimi):
    tokenizer = loading.load_tokenizer(str(kimi))
    assert tokenizer.encode("hello[EOS]") == [256, 108, 108, 111, 259]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (258, 259)
    assert tokenizer.vocab_size == 258 + 258
    ids = tokenizer.encode("中文 ok<tool>[EOS]")
    assert tokenizer.decode(ids) == "中文 ok<tool>[EOS]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "中文 ok<tool>"
    long = "hello world\n" * 40_000
    assert tokenizer.decode(tokenizer.encode(long)) == long
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.apply_chat_template([])


def test_error_names_a_damaged_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(loading.TokenizerError, match="cannot be read"):
        loading.load_tokenizer(str(tmp_path))
    (tmp_path / "tiktoken.model").write_text("???")
    with pytest.raises(loading.TokenizerError, match=r"line 1 is not base64 and a rank"):
        loading.load_tokenizer(str(tmp_path / "tiktoken.model"))


def test_concurrent_calls_share_one_load(folder, monkeypatch):
    loads, barrier = [], threading.Barrier(8)
    real = loading._load
    monkeypatch.setattr(loading, "_load", lambda name: (loads.append(name), real(name))[1])
    loaded = []

    def load():
        barrier.wait(10)
        loaded.append(loading.load_tokenizer(str(folder)))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(loads) == 1 and len({id(one) for one in loaded}) == 1 and len(loaded) == 8


def test_a_failed_load_is_tried_again(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(loading.TokenizerError):
        loading.load_tokenizer(str(path))
    library.Tokenizer(library.models.BPE()).save(str(path))
    assert loading.load_tokenizer(str(path)).encode("") == []


def test_error_for_a_missing_library_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinkex-sync\[tokenizers\]"'):
        loading.load_tokenizer(str(folder))
    with pytest.raises(MissingExtraError, match="needs tokenizers"):
        loading.load_tokenizer("unknown/model")


def test_embedded_server_returns_the_id_of_the_byte_tokenizer(service):
    training = service.create_lora_training_client("tinkex/tiny", rank=4)
    tokenizer = training.get_tokenizer()
    assert isinstance(tokenizer, ByteTokenizer) and training.get_tokenizer() is tokenizer
    assert training.submit_get_tokenizer().result(20) is tokenizer
    assert tokenizer.encode("hi", add_special_tokens=False) == [104, 105]
    assert tokenizer.decode([104, 105, 257], skip_special_tokens=True) == "hi"


def test_package_tml_tokenizers_takes_precedence(tmp_path, monkeypatch):
    (tmp_path / "tml_tokenizers.py").write_text(
        "def get_tinker_tokenizer(name):\n    return 'from tml_tokenizers' if name == 'TML/x' else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert loading.load_tokenizer("TML/x") == "from tml_tokenizers"
    monkeypatch.delitem(sys.modules, "tml_tokenizers")


def test_an_empty_name_is_an_error():
    with pytest.raises(loading.TokenizerError, match="'' is not the name of a tokenizer"):
        loading.load_tokenizer("")


def test_the_core_imports_no_tokenizer_library_and_the_hub_works_offline(folder, tmp_path):
    cache = tmp_path / "home" / "hub" / "models--some--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("0" * 40)).mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (cache / "snapshots" / ("0" * 40) / name).write_bytes((folder / name).read_bytes())
    script = """
import sys, tinkex_sync
from tinkex_sync import tokenizers
assert not {"tokenizers", "tiktoken", "transformers", "huggingface_hub"} & set(sys.modules)
assert tokenizers.load_tokenizer("some/model").eos_token_id == 1
try:
    tokenizers.load_tokenizer("other/model")
except tokenizers.TokenizerError as error:
    assert "'other/model'" in str(error) and "HF_HOME" in str(error) and "path" in str(error), error
else:
    raise AssertionError
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path.cwd())
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
