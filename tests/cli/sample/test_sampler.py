"""Prompts and tokenizers: text needs a tokenizer, token ids do not."""

from types import SimpleNamespace

import pytest

from tinkex_sync.cli.output import CommandError, Output
from tinkex_sync.cli.sample.prompts import Prompt
from tinkex_sync.cli.sample.sampler import PromptSampler, PromptTokenizer

OPTIONS = {"logprobs": True, "num_samples": 2, "max_tokens": 4, "temperature": 0.5}


class Service:
    """A service client whose sampling client records its requests."""

    def __init__(self):
        self.clients, self.requests = [], []

    def create_sampling_client(self, **settings):
        self.clients.append(settings)
        return self

    def submit_sample(self, prompt, num_samples, params, timeout):
        self.requests.append((prompt.to_ints(), num_samples, params, timeout))
        return "future"


def tokenizer(service, model="tinkex/tiny", tokenizer_id=None, has_texts=True):
    return PromptTokenizer(Output(), service, model, tokenizer_id, has_texts)


def test_text_is_encoded_and_token_ids_are_kept():
    encode = tokenizer(Service()).encode
    assert encode(Prompt(0, "hi", None)) == list(b"hi")
    assert encode(Prompt(0, [7, 8], None)) == [7, 8]


def test_without_a_tokenizer_texts_are_refused_and_token_ids_are_sampled(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CommandError) as refused:
        tokenizer(Service(), "unknown/model")
    assert "--tokenizer" in refused.value.details[0]
    assert tokenizer(Service(), "unknown/model", has_texts=False).decode(None) is None
    assert "Replies contain token ids only" in capsys.readouterr().err


def test_a_token_that_the_tokenizer_does_not_know_is_reported():
    response = SimpleNamespace(sequences=[SimpleNamespace(tokens=[151_000])])
    with pytest.raises(CommandError, match="cannot decode the reply"):
        tokenizer(Service()).decode(response)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("tinkex/tiny", {"model_path": None, "base_model": "tinkex/tiny"}),
        ("tinker://r/sampler_weights/x", {"model_path": "tinker://r/sampler_weights/x", "base_model": None}),
    ],
)
def test_all_prompts_have_the_same_parameters(model, settings):
    service = Service()
    sampler = PromptSampler(service, tokenizer(service), model, OPTIONS, 9.0)
    assert sampler.logprobs is True
    assert sampler.submit(Prompt(0, "hi", None)) == "future"
    [(tokens, num_samples, params, timeout)] = service.requests
    assert (tokens, num_samples, timeout) == (list(b"hi"), 2, 9.0)
    assert (params.max_tokens, params.temperature) == (4, 0.5)
    assert service.clients == [settings]


def test_a_prompt_without_tokens_is_refused(monkeypatch):
    service = Service()
    encoder = tokenizer(service)
    monkeypatch.setattr(encoder, "encode", lambda prompt: [])
    with pytest.raises(ValueError, match="the prompt is empty"):
        PromptSampler(service, encoder, "tinkex/tiny", OPTIONS, None).submit(Prompt(0, "x", None))
