"""Submit prompts to the server, and decode the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from ..chats import Chat, check_chat, encode_chat_prompt
from ..output import CommandError, Output

if TYPE_CHECKING:
    from ...clients import SamplingClient, ServiceClient
    from ...futures import Future
    from .prompts import Prompt

__all__ = ["PromptSampler", "PromptTokenizer", "load_tokenizer_of", "open_sampler"]

_SCHEME = "tinker://"


def open_sampler(service: ServiceClient, model: str) -> SamplingClient:
    """Create the sampling client of a base model, or of the ``tinker://`` path of saved weights."""
    path = model if model.startswith(_SCHEME) else None
    return service.create_sampling_client(model_path=path, base_model=None if path else model)


def load_tokenizer_of(service: ServiceClient, sampler: SamplingClient, model: str) -> Any:
    """Load the tokenizer of a base model, or of the base model of saved weights.

    Raises:
        TokenizerError, MissingExtraError: It cannot be found or loaded.
    """
    from ...tokenizers.loading import choose_tokenizer, load_tokenizer

    base_model = _base_model_of(service, sampler, model) if model.startswith(_SCHEME) else model
    return load_tokenizer(choose_tokenizer(base_model).id)


def _base_model_of(service: ServiceClient, sampler: SamplingClient, path: str) -> str:
    """Return the base model of saved weights.

    Some servers refuse the paths of weights for sampling in weights_info. Then the model is in the record of the
    sampler or of the run.

    Raises:
        TokenizerError: The server returns it nowhere.
    """
    from ...errors import APIResponseValidationError, APIStatusError
    from ...tokenizers.loading import TokenizerError

    rest = service.create_rest_client()
    lookups: List[Callable[[], str]] = [
        lambda: rest.get_weights_info_by_tinker_path(path).base_model,
        lambda: sampler.get_base_model(),
        lambda: rest.get_training_run_by_tinker_path(path).base_model,
    ]
    failures: List[str] = []
    for look_up in lookups:
        try:
            base_model = look_up()
        except (APIStatusError, APIResponseValidationError, ValueError) as error:
            failures.append(str(error))
        else:
            if base_model:
                return base_model
    reason = failures[0] if failures else "it is empty"
    raise TokenizerError(f"the server does not return the base model of {path}: {reason}")


class PromptTokenizer:
    """Encodes prompts and decodes responses, where a tokenizer is available. Used by one thread.

    Args:
        load: Returns the tokenizer, or raises TokenizerError or MissingExtraError.
        is_required: Whether a prompt is a text or a chat, or the user has named a tokenizer.

    Raises:
        CommandError: A tokenizer is required and cannot be loaded.
    """

    def __init__(self, output: Output, load: Callable[[], Any], is_required: bool) -> None:
        from ...errors import MissingExtraError
        from ...tokenizers.loading import TokenizerError

        self._tokenizer: Any = None
        try:
            self._tokenizer = load()
        except (TokenizerError, MissingExtraError) as error:
            if is_required:
                raise CommandError(str(error), "Or give another tokenizer with --tokenizer.") from None
            output.note(f"Responses contain token ids only, no text: {error}")

    def check(self, chat: Chat) -> None:
        """Check that a chat can be encoded.

        Raises:
            ValueError: The chat template does not write a part of it.
        """
        check_chat(chat, self._tokenizer)

    def encode(self, prompt: Prompt) -> List[int]:
        """Return the token ids of a prompt."""
        content = prompt.content
        if isinstance(content, Chat):
            return encode_chat_prompt(content, self._tokenizer)
        return content if isinstance(content, list) else list(self._tokenizer.encode(content))

    def decode(self, response: Any) -> Optional[List[str]]:
        """Return the text of each sequence without its end-of-sequence token, or None without a tokenizer.

        Raises:
            CommandError: The tokenizer does not know a token.
        """
        if self._tokenizer is None:
            return None
        try:
            return [self._decode(list(sequence.tokens)) for sequence in response.sequences]
        except Exception as error:  # tokenizers written in Rust raise plain Exception
            raise CommandError(
                f"the tokenizer cannot decode the response of the model: {error}",
                "It does not belong to this model: give the right one with --tokenizer.",
            ) from error

    def _decode(self, tokens: List[int]) -> str:
        end: Optional[int] = getattr(self._tokenizer, "eos_token_id", None)
        text: str = self._tokenizer.decode(tokens[:-1] if tokens[-1:] == [end] else tokens)
        return text


class PromptSampler:
    """Submits prompts. Used by one thread.

    Args:
        options: "num_samples", "logprobs", and the fields of ``SamplingParams``. Prompts may have others.
        timeout: Seconds for each prompt. None: no limit.
    """

    def __init__(
        self, client: SamplingClient, tokenizer: PromptTokenizer, options: Mapping[str, Any], timeout: Optional[float]
    ) -> None:
        self._client = client
        self._tokenizer = tokenizer
        self._options: Dict[str, Any] = dict(options)
        #: Whether responses contain the log probability of each token.
        self.logprobs: bool = self._options.pop("logprobs")
        self._timeout = timeout

    def submit(self, prompt: Prompt) -> Future[Any]:
        """Submit a prompt without waiting for the network.

        Raises:
            ValueError: The prompt has no tokens, or cannot be sent.
        """
        from ...types import ModelInput, SamplingParams

        tokens = self._tokenizer.encode(prompt)
        if not tokens:
            raise ValueError("the prompt is empty: the tokenizer returns no tokens for it")
        options = {**self._options, **prompt.options}
        num_samples = options.pop("num_samples")
        return self._client.submit_sample(
            ModelInput.from_ints(tokens), num_samples, SamplingParams(**options), timeout=self._timeout
        )

    def texts(self, prompt: Prompt, response: Any) -> Optional[List[str]]:
        """Return the text of each sequence up to a stop text, or None without a tokenizer."""
        texts = self._tokenizer.decode(response)
        stop = {**self._options, **prompt.options}.get("stop")
        stops = [stop] if isinstance(stop, str) else [one for one in stop or () if isinstance(one, str)]
        return None if texts is None else [_before_stop(text, stops) for text in texts]


def _before_stop(text: str, stops: List[str]) -> str:
    """Return the part of a text before the first stop text in it."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
