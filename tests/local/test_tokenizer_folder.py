"""The tokenizer of the chat model can be loaded without a network."""

import json

import pytest
from server_calls import connect

from tinkex_sync import types
from tinkex_sync.local.engine.architecture import BASE_MODELS, CHAT_MODEL, CHAT_TOKENS
from tinkex_sync.local.tokenizer_folder import write_tokenizer_folder
from tinkex_sync.tokenizers import load_tokenizer

pytest.importorskip("tokenizers")

TEXTS = ["hello", "", " \n\t", "naïve 日本語 🙂\x00\x7f", "a<|im_start|>b<|im_end|>", "<|im_|>"]
MESSAGES = [{"role": "user", "content": "hi é"}, {"role": "assistant", "content": "yo"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_tokenizer_folder(folder, CHAT_TOKENS, 2048)
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_model(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens == BASE_MODELS[CHAT_MODEL].encode(text)
    assert tokenizer.decode(tokens) == text


def test_tokens_below_256_are_bytes(tokenizer):
    assert tokenizer.encode("é~ ") == list("é~ ".encode())
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (256, 259)


def test_chat_template_uses_the_chat_tokens(tokenizer):
    pytest.importorskip("jinja2")
    tokens = tokenizer.apply_chat_template(MESSAGES, tokenize=True, add_generation_prompt=True)
    text = "<|im_start|>user\nhi é<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n<|im_start|>assistant\n"
    assert tokens == tokenizer.encode(text)
    assert tokens.count(258) == 3


def test_file_names_the_class_of_transformers(tmp_path):
    write_tokenizer_folder(tmp_path / "new", CHAT_TOKENS, 99)
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["model_max_length"]) == ("PreTrainedTokenizerFast", 99)


@pytest.mark.parametrize("protocol", ["0.7", "0.38"])
def test_client_loads_the_tokenizer_that_the_server_names(server_0_38, protocol, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with connect(server_0_38, protocol=protocol) as service:
        training = service.create_lora_training_client("tinkex/chat", rank=8, seed=1)
        tokenizer = training.get_tokenizer()
        tokens = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n")
        assert max(tokens) == 259
        datum = types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
        )
        first = training.forward_backward([datum], "cross_entropy").metrics["loss:sum"]
        for _ in range(30):
            training.train_step([datum], "cross_entropy", types.AdamParams(learning_rate=5e-3))
        assert training.forward([datum], "cross_entropy").metrics["loss:sum"] < first
        sampler = training.save_weights_and_get_sampling_client()
        prompt = types.ModelInput.from_ints(tokenizer.encode("<|im_start|>user\n"))
        params = types.SamplingParams(max_tokens=8, temperature=0.0)
        (sequence,) = sampler.sample(prompt, 1, params).sequences
        # The end of a message ends the completion.
        assert tokenizer.decode(sequence.tokens) == "hi<|im_end|>"
        assert sequence.stop_reason == "stop"


def test_byte_models_keep_the_byte_tokenizer(wire):
    info = wire.ok("get_info", {"model_id": wire.model(base_model="tinkex/small")})
    assert info["model_data"]["tokenizer_id"] == "tinkex/tiny"
