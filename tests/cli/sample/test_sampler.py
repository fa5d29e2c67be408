"""Prompts and tokenizers: text and chats need a tokenizer, token ids do not."""

from types import SimpleNamespace

import pytest
from scripted_server import Answer

from tinkex_sync import ServiceClient
from tinkex_sync.cli.chats import parse_chat
from tinkex_sync.cli.output import CommandError, Output
from tinkex_sync.cli.sample.prompts import Prompt
from tinkex_sync.cli.sample.sampler import PromptSampler, PromptTokenizer, load_tokenizer_of, open_sampler
from tinkex_sync.tokenizers import ByteTokenizer, TokenizerError

OPTIONS = {"logprobs": True, "num_samples": 2, "max_tokens": 4, "temperature": 0.5, "stop": ["end"]}


class Client:
    """A sampling client that records its requests."""

    def __init__(self):
        self.requests = []

    def submit_sample(self, prompt, num_samples, params, timeout):
        self.requests.append((prompt.to_ints(), num_samples, params, timeout))
        return "future"


def tokenizer():
    return PromptTokenizer(Output(), ByteTokenizer, True)


def sampler(client=None, **options):
    return PromptSampler(client, tokenizer(), {**OPTIONS, **options}, 9.0)


def test_text_and_chats_are_encoded_and_token_ids_are_kept():
    encode = tokenizer().encode
    assert encode(Prompt(0, "hi", None)) == list(b"hi")
    assert encode(Prompt(0, [7, 8], None)) == [7, 8]
    chat = parse_chat({"messages": [{"role": "user", "content": "hi"}]})
    assert encode(Prompt(0, chat, None)) == list(b"user: hi\nassistant:")


def test_a_chat_that_cannot_be_encoded_is_refused():
    chat = parse_chat({"messages": [{"role": "user", "content": "hi", "name": "Ann"}]})
    with pytest.raises(ValueError, match="needs a chat template"):
        tokenizer().check(chat)


def test_without_a_tokenizer_texts_are_refused_and_token_ids_are_sampled(capsys):
    def load():
        raise TokenizerError("no such tokenizer")

    with pytest.raises(CommandError) as refused:
        PromptTokenizer(Output(), load, True)
    assert "--tokenizer" in refused.value.details[0]
    assert PromptTokenizer(Output(), load, False).decode(None) is None
    assert "Responses contain token ids only" in capsys.readouterr().err


def response(*texts):
    return SimpleNamespace(sequences=[SimpleNamespace(tokens=list(text)) for text in texts])


def test_a_token_that_the_tokenizer_does_not_know_is_reported():
    with pytest.raises(CommandError, match="cannot decode the response"):
        tokenizer().decode(response([151_000]))


def test_a_text_ends_before_the_end_token():
    class Marked(ByteTokenizer):
        def decode(self, tokens):
            return "".join("<end>" if token == self.eos_token_id else chr(token) for token in tokens)

    end = Marked.eos_token_id
    decode = PromptTokenizer(Output(), Marked, True).decode
    assert decode(response([104, 105, end], [104, end, 105], [end], [])) == ["hi", "h<end>i", "", ""]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, ["one end", "two end.", "three"]),
        (["end"], ["one ", "two ", "three"]),
        (["d.", "wo"], ["one end", "t", "three"]),
        ([1, 2], ["one end", "two end.", "three"]),
    ],
)
def test_a_text_ends_before_a_stop_text(stop, expected):
    texts = sampler(stop=stop).texts(Prompt(0, "x", None), response(b"one end", b"two end.", b"three"))
    assert texts == expected


def test_stop_texts_of_a_prompt_replace_those_of_the_command():
    prompt = Prompt(0, "x", None, {"stop": "ne"})
    assert sampler().texts(prompt, response(b"one end")) == ["o"]


def test_prompts_have_the_parameters_of_the_command_and_their_own():
    client = Client()
    prompt_sampler = sampler(client)
    assert prompt_sampler.logprobs is True
    assert prompt_sampler.submit(Prompt(0, "hi", None)) == "future"
    prompt_sampler.submit(Prompt(1, [7], None, {"num_samples": 3, "seed": 5, "temperature": 0}))
    [(tokens, num_samples, params, timeout), (_, own_samples, own, _)] = client.requests
    assert (tokens, num_samples, timeout) == (list(b"hi"), 2, 9.0)
    assert (params.max_tokens, params.temperature, params.seed) == (4, 0.5, None)
    assert (own_samples, own.max_tokens, own.temperature, own.seed) == (3, 4, 0, 5)


def test_a_prompt_without_tokens_is_refused(monkeypatch):
    prompt_sampler = sampler(Client())
    monkeypatch.setattr(ByteTokenizer, "encode", lambda *_: [])
    with pytest.raises(ValueError, match="the prompt is empty"):
        prompt_sampler.submit(Prompt(0, "x", None))


PATHS = ["tinker://r/sampler_weights/x", "tinker://r/x"]
REFUSAL = Answer(400, {"detail": "not a path of training weights"})
SAMPLER = Answer(body={"sampler_id": "x", "base_model": "tinkex/tiny"})
RUN = Answer(
    body={
        "training_run_id": "r",
        "base_model": "tinkex/tiny",
        "model_owner": "me",
        "is_lora": True,
        "last_request_time": "2026-01-01T00:00:00Z",
    }
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("sampler_answer", "run_answer"), [(SAMPLER, REFUSAL), (Answer(404, {"detail": "no samplers"}), RUN)]
)
def test_the_base_model_is_found_where_weights_info_refuses_sampler_paths(path, sampler_answer, run_answer, scripted):
    scripted.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "x"})
    scripted.defaults["weights_info"] = REFUSAL
    scripted.defaults["samplers/x"] = sampler_answer
    scripted.defaults["training_runs/r"] = run_answer
    with ServiceClient(base_url=scripted.base_url, api_key="key") as service:
        client = open_sampler(service, path)
        assert isinstance(load_tokenizer_of(service, client, path), ByteTokenizer)
        scripted.defaults["samplers/x"] = scripted.defaults["training_runs/r"] = REFUSAL
        with pytest.raises(TokenizerError, match=f"base model of {path}: .*not a path of training weights"):
            load_tokenizer_of(service, client, path)
    assert scripted.sent("create_sampling_session")[0].body["model_path"] == path


def test_the_name_of_a_base_model_is_the_name_of_its_tokenizer():
    assert isinstance(load_tokenizer_of(None, None, "tinkex/tiny"), ByteTokenizer)
