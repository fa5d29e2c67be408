"""Tokenizers from files: local folders, a hub on loopback, and transformers for other formats."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizer_folders as folders

from tinkex_sync.tokenizers import loading

pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not in this environment")

LLAMA = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin|>",
    "eos_token": {**folders.flags("<|end|>"), "__type": "AddedToken"},
    "chat_template": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
    "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ strftime_now('%Y') }}",
}
QWEN = {
    "tokenizer_class": "Qwen2Tokenizer",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|end|>",
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
}
# Tokens that are not in tokenizer.json.
CONFIGURED = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|end|>",
    "added_tokens_decoder": {"400": folders.flags("<|late|>"), "401": folders.flags("<tool>", special=False)},
}


def write_tokenizer(folder, kind):
    if kind == "llama":
        folders.bpe(folder, LLAMA, specials=["<|begin|>", "<|end|>"], first="<|begin|>")
    elif kind == "qwen":
        folders.bpe(folder, QWEN, specials=["<|end|>", "<|im_start|>", "<|im_end|>"], plain=["<tool>", "</tool>"])
    else:
        folders.bpe(folder, CONFIGURED)


@pytest.mark.parametrize("kind", ["llama", "qwen", "configured"])
def test_encode_and_decode_equal_transformers_on_the_same_files(tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not in this environment")
    write_tokenizer(tmp_path, kind)
    mine = loading.load_tokenizer(str(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path), fast=True)
    for text in folders.TEXTS:
        for add in (True, False):
            tokens = mine.encode(text, add_special_tokens=add)
            assert tokens == list(theirs.encode(text, add_special_tokens=add)), (text, add)
            for skip in (True, False):
                decoded = theirs.decode(tokens, skip_special_tokens=skip)
                assert mine.decode(tokens, skip_special_tokens=skip) == decoded, (text, skip)
    for name in ("bos_token_id", "eos_token_id", "vocab_size"):
        assert getattr(mine, name) == getattr(theirs, name)
    if kind == "llama":
        talk = [{"role": "user", "content": " hi "}]
        tools = [{"name": "é", "args": {"b": 1, "a": 2}}]
        options = {"tools": tools, "tokenize": False}
        assert mine.apply_chat_template(talk, **options) == theirs.apply_chat_template(talk, **options)


def test_tokens_that_only_the_configuration_lists_are_added(tmp_path):
    write_tokenizer(tmp_path, "configured")
    tokenizer = loading.load_tokenizer(str(tmp_path))
    size = tokenizer.vocab_size
    assert tokenizer.encode("<|late|><tool><|end|>") == [size, size + 1, size + 2]
    assert tokenizer.eos_token_id == size + 2
    assert tokenizer.decode([size, size + 1, size + 2], skip_special_tokens=True) == "<tool>"


def test_other_formats_are_loaded_by_transformers(tmp_path):
    folders.vocabulary_and_merges(tmp_path)
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(loading.TokenizerError, match=r"neither tokenizer.json nor.*pip install transformers"):
            loading.load_tokenizer(str(tmp_path))
        return
    tokenizer = loading.load_tokenizer(str(tmp_path))
    assert type(tokenizer).__module__.startswith("transformers.")
    tokens = tokenizer.encode("to be, or not to be")
    assert len(tokens) < 19 and tokenizer.decode(tokens) == "to be, or not to be"
    assert loading.load_tokenizer(str(tmp_path)) is tokenizer


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(loading.TokenizerError, match="transformers"):
        loading.load_tokenizer(str(tmp_path))


def run(script, home, endpoint, *arguments, **settings):
    """Run ``script`` in a child process with a separate cache and with this hub only."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ENCODED = "import sys\nfrom tinkex_sync.tokenizers import load_tokenizer as load\n"
ENCODED += "print(load(sys.argv[1]).encode('to be <|im_start|> or not'))"

THREADS = """
import sys, threading
from tinkex_sync.tokenizers import load_tokenizer
barrier, loaded = threading.Barrier(8), []
def load():
    barrier.wait(30)
    loaded.append(load_tokenizer("some/model"))
threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
print(len(loaded), len(set(map(id, loaded))), loaded[0].eos_token_id == loaded[0].encode("<|im_end|>")[0])
"""


def test_threads_share_one_download_and_the_next_process_uses_the_cache(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    model, home = tmp_path / "model", tmp_path / "home"
    model.mkdir()
    home.mkdir()
    write_tokenizer(model, "qwen")
    with folders.hub({"some/model": model}) as (endpoint, requests):
        assert run(THREADS, home, endpoint) == "8 1 True"
        fetched = sorted(path for method, path in requests if method == "GET" and "/resolve/" in path)
        wanted = [(folders.COMMIT, "tokenizer_config.json"), ("main", "tokenizer.json")]
        assert fetched == [f"/some/model/resolve/{revision}/{name}" for revision, name in wanted]
    # The hub is closed now. The cache must serve without a network, with and without HF_HUB_OFFLINE.
    expected = str(loading.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))
    assert run(ENCODED, home, endpoint, "some/model") == expected
    assert run(ENCODED, home, endpoint, "some/model", HF_HUB_OFFLINE="1") == expected


def test_kimi_k2_is_fetched_at_its_revision_and_read_by_tiktoken(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
    model, home = tmp_path / "model", tmp_path / "home"
    model.mkdir()
    home.mkdir()
    folders.kimi(model)
    name = "moonshotai/Kimi-K2-Thinking"
    with folders.hub({name: model}) as (endpoint, requests):
        out = run(ENCODED, home, endpoint, name)
    assert out == str(loading.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))
    revision = "612681931a8c906ddb349f8ad0f582cb552189cd"
    assert {path.split("/")[4] for _, path in requests} == {revision}
    assert not any(path.endswith("tokenizer.json") for _, path in requests)


FAILING_LOAD = """
import sys
from tinkex_sync.tokenizers import TokenizerError, load_tokenizer
try:
    load_tokenizer(sys.argv[1])
except TokenizerError as error:
    print(error)
"""


def test_error_for_an_unknown_model_names_it_and_the_remedy(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    with folders.hub({}) as (endpoint, _):
        message = run(FAILING_LOAD, tmp_path, endpoint, "unknown/model")
    assert "tokenizer 'unknown/model' cannot be fetched: RepositoryNotFoundError" in message
    assert "pass the path of a directory" in message


def test_other_formats_on_the_hub_are_loaded_by_transformers(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    pytest.importorskip("transformers", reason="transformers is not in this environment")
    model, home = tmp_path / "model", tmp_path / "home"
    model.mkdir()
    home.mkdir()
    folders.vocabulary_and_merges(model)
    with folders.hub({"old/model": model}) as (endpoint, _):
        out = run(ENCODED, home, endpoint, "old/model")
    assert out == str(loading.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))


def test_kimi_k2_splits_and_counts_as_its_own_tokenizer_does(tmp_path):
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
    folders.kimi(tmp_path)
    tokenizer = loading.load_tokenizer(str(tmp_path))
    base = tokenizer.bos_token_id
    assert isinstance(tokenizer.backend, tiktoken.Encoding)
    assert tokenizer.vocab_size == base + 258
    for text in folders.TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [base, base + 2, base + 8, base + 100]
    assert tokenizer.encode(f"[BOS]<|im_end|><tool><|reserved_token_{base + 100}|>") == ids
    # The configuration does not list reserved tokens as special.
    kept = f"<tool><|reserved_token_{base + 100}|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == kept
    # Runs are split at 25,000 characters, even inside a merge, and texts at 400,000.
    word = tokenizer.encode("be")
    assert len(word) == 1
    run = tokenizer.encode("a" + "be" * 20_000)
    assert run[12_490:12_510].count(word[0]) == 18, "the run is split between b and e"
    lines = "to be\n" * 70_000
    assert tokenizer.encode(lines) == tokenizer.encode(lines[:400_000]) + tokenizer.encode(lines[400_000:])


def test_kimi_k2_sorts_the_keys_of_tools(tmp_path):
    pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
    pytest.importorskip("jinja2", reason="jinja2 is not in this environment")
    folders.kimi(tmp_path)
    tokenizer = loading.load_tokenizer(str(tmp_path))
    tools = [{"type": "function", "function": {"name": "f", "description": "é"}}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tools=tools, tokenize=False)
    ends = '[{"function": {"description": "é", "name": "f"}, "type": "function"}]'
    assert text == "<|im_user|>hi<|im_end|>" + ends


def test_generation_tags_of_a_chat_template_have_no_effect_on_the_text(tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 is not in this environment")
    template = "{% for m in messages %}\n  {%- BEGIN +%}\n  {{ m.content }}\n  {% END -%}\n{% endfor %}"
    texts = []
    for number, (begin, end) in enumerate([("if true", "endif"), ("generation", "endgeneration")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = template.replace("BEGIN", begin).replace("END", end)
        folders.bpe(folder, {**QWEN, "chat_template": source}, specials=["<|im_end|>"])
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        texts.append(loading.load_tokenizer(str(folder)).apply_chat_template(talk, tokenize=False))
    assert texts[0] == texts[1]
