"""Where tokenizers come from: the hub (one of our own, on loopback), folders, and transformers for other kinds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizer_folders as folders

from tinkex_sync.tokenizers import loading as ours

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
# Tokens that tokenizer.json does not know.
DECLARED = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|end|>",
    "added_tokens_decoder": {"400": folders.flags("<|late|>"), "401": folders.flags("<tool>", special=False)},
}


def _write(folder, kind):
    if kind == "llama":
        folders.bpe(folder, LLAMA, specials=["<|begin|>", "<|end|>"], first="<|begin|>")
    elif kind == "qwen":
        folders.bpe(
            folder, QWEN, specials=["<|end|>", "<|im_start|>", "<|im_end|>"], plain=["<tool>", "</tool>"]
        )
    else:
        folders.bpe(folder, DECLARED)


@pytest.mark.parametrize("kind", ["llama", "qwen", "declared"])
def test_tokenizers_and_transformers_agree_on_the_same_files(tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not in this environment")
    _write(tmp_path, kind)
    mine = ours.load_tokenizer(str(tmp_path))
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


def test_tokens_only_the_configuration_declares_are_there(tmp_path):
    _write(tmp_path, "declared")
    tokenizer = ours.load_tokenizer(str(tmp_path))
    size = tokenizer.vocab_size
    assert tokenizer.encode("<|late|><tool><|end|>") == [size, size + 1, size + 2]
    assert tokenizer.eos_token_id == size + 2
    assert tokenizer.decode([size, size + 1, size + 2], skip_special_tokens=True) == "<tool>"


def test_other_kinds_of_files_go_to_transformers(tmp_path):
    folders.vocabulary_and_merges(tmp_path)
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(
            ours.TokenizerError, match=r"neither tokenizer.json nor.*pip install transformers"
        ):
            ours.load_tokenizer(str(tmp_path))
        return
    tokenizer = ours.load_tokenizer(str(tmp_path))
    assert type(tokenizer).__module__.startswith("transformers.")
    tokens = tokenizer.encode("to be, or not to be")
    assert len(tokens) < 19 and tokenizer.decode(tokens) == "to be, or not to be"
    assert ours.load_tokenizer(str(tmp_path)) is tokenizer


def test_a_folder_of_nothing_is_told_so(tmp_path):
    with pytest.raises(ours.TokenizerError, match="transformers"):
        ours.load_tokenizer(str(tmp_path))


def run(script, home, endpoint, *arguments, **settings):
    """Run ``script`` in a process of its own, which has its own cache and sees only this hub."""
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
gate, got = threading.Barrier(8), []
def ask():
    gate.wait(30)
    got.append(load_tokenizer("some/model"))
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
print(len(got), len(set(map(id, got))), got[0].eos_token_id == got[0].encode("<|im_end|>")[0])
"""


def test_a_download_is_made_once_for_all_threads_and_kept_for_the_next_process(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    model, home = tmp_path / "model", tmp_path / "home"
    model.mkdir()
    home.mkdir()
    _write(model, "qwen")
    with folders.hub({"some/model": model}) as (endpoint, asked):
        assert run(THREADS, home, endpoint) == "8 1 True"
        fetched = sorted(path for method, path in asked if method == "GET" and "/resolve/" in path)
        wanted = [(folders.COMMIT, "tokenizer_config.json"), ("main", "tokenizer.json")]
        assert fetched == [f"/some/model/resolve/{revision}/{name}" for revision, name in wanted]
    # The hub is gone now: with the network down, and with the setting that says so.
    expected = str(ours.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))
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
    with folders.hub({name: model}) as (endpoint, asked):
        out = run(ENCODED, home, endpoint, name)
    assert out == str(ours.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))
    revision = "612681931a8c906ddb349f8ad0f582cb552189cd"
    assert {path.split("/")[4] for _, path in asked} == {revision}
    assert not any(path.endswith("tokenizer.json") for _, path in asked)


FAILS = """
import sys
from tinkex_sync.tokenizers import TokenizerError, load_tokenizer
try:
    load_tokenizer(sys.argv[1])
except TokenizerError as error:
    print(error)
"""


def test_a_model_the_hub_does_not_have_is_named_with_what_to_do(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    with folders.hub({}) as (endpoint, _):
        said = run(FAILS, tmp_path, endpoint, "nobody/nothing")
    assert "tokenizer 'nobody/nothing' cannot be fetched: RepositoryNotFoundError" in said
    assert "give the path of a directory" in said


def test_other_kinds_of_files_on_the_hub_go_to_transformers(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not in this environment")
    pytest.importorskip("transformers", reason="transformers is not in this environment")
    model, home = tmp_path / "model", tmp_path / "home"
    model.mkdir()
    home.mkdir()
    folders.vocabulary_and_merges(model)
    with folders.hub({"old/model": model}) as (endpoint, _):
        out = run(ENCODED, home, endpoint, "old/model")
    assert out == str(ours.load_tokenizer(str(model)).encode("to be <|im_start|> or not"))


def test_kimi_k2_is_cut_and_counted_as_its_own_tokenizer_does(tmp_path):
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
    folders.kimi(tmp_path)
    tokenizer = ours.load_tokenizer(str(tmp_path))
    base = tokenizer.bos_token_id
    assert isinstance(tokenizer.backend, tiktoken.Encoding)
    assert tokenizer.vocab_size == base + 258
    for text in folders.TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [base, base + 2, base + 8, base + 100]
    assert tokenizer.encode(f"[BOS]<|im_end|><tool><|reserved_token_{base + 100}|>") == ids
    # A reserved token is not among those the configuration calls special.
    kept = f"<tool><|reserved_token_{base + 100}|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == kept
    # Runs end at 25,000 characters, also where a merge would go on, and texts at 400,000.
    word = tokenizer.encode("be")
    assert len(word) == 1
    run = tokenizer.encode("a" + "be" * 20_000)
    assert run[12_490:12_510].count(word[0]) == 18, "the run is cut between b and e"
    lines = "to be\n" * 70_000
    assert tokenizer.encode(lines) == tokenizer.encode(lines[:400_000]) + tokenizer.encode(lines[400_000:])


def test_kimi_k2_sorts_the_keys_of_tools(tmp_path):
    pytest.importorskip("tiktoken", reason="tiktoken is not in this environment")
    pytest.importorskip("jinja2", reason="jinja2 is not in this environment")
    folders.kimi(tmp_path)
    tokenizer = ours.load_tokenizer(str(tmp_path))
    tools = [{"type": "function", "function": {"name": "f", "description": "é"}}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tools=tools, tokenize=False)
    ends = '[{"function": {"description": "é", "name": "f"}, "type": "function"}]'
    assert text == "<|im_user|>hi<|im_end|>" + ends
