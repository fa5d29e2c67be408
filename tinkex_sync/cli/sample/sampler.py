"""Submit prompts to the server, all with the same sampling parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Mapping, Optional

from ..output import CommandError, Output

if TYPE_CHECKING:
    from ...clients import SamplingClient, ServiceClient
    from ...futures import Future
    from .prompts import Prompt

__all__ = ["PromptSampler", "PromptTokenizer"]

_SCHEME = "tinker://"


class PromptTokenizer:
    """Encodes prompts and decodes replies, where a tokenizer is available. Used by one thread.

    Args:
        model: A base model, or the ``tinker://`` path of saved weights.
        tokenizer: The id or path of the tokenizer. None: the one that belongs to the model.
        has_texts: Whether a prompt is text, so that a tokenizer is required.

    Raises:
        CommandError: A tokenizer is required and cannot be loaded.
    """

    def __init__(
        self, output: Output, service: ServiceClient, model: str, tokenizer: Optional[str], has_texts: bool
    ) -> None:
        from ...errors import MissingExtraError
        from ...tokenizers.loading import TokenizerError

        self._tokenizer: Any = None
        try:
            self._tokenizer = _load_tokenizer(service, model, tokenizer)
        except (TokenizerError, MissingExtraError) as error:
            if has_texts or tokenizer is not None:
                raise CommandError(str(error), "Or give another tokenizer with --tokenizer.") from None
            output.note(f"Replies contain token ids only, no text: {error}")

    def encode(self, prompt: Prompt) -> List[int]:
        """Return the token ids of a prompt."""
        content = prompt.content
        return content if isinstance(content, list) else list(self._tokenizer.encode(content))

    def decode(self, response: Any) -> Optional[List[str]]:
        """Return the text of each sequence, or None without a tokenizer.

        Raises:
            CommandError: The tokenizer does not know a token.
        """
        if self._tokenizer is None:
            return None
        try:
            return [self._tokenizer.decode(list(sequence.tokens)) for sequence in response.sequences]
        except Exception as error:  # tokenizers written in Rust raise plain Exception
            raise CommandError(
                f"the tokenizer cannot decode the reply of the model: {error}",
                "It does not belong to this model: give the right one with --tokenizer.",
            ) from error


def _load_tokenizer(service: ServiceClient, model: str, tokenizer: Optional[str]) -> Any:
    from ...errors import APIStatusError
    from ...tokenizers.loading import TokenizerError, choose_tokenizer, load_tokenizer

    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    base_model = model
    if model.startswith(_SCHEME):
        try:
            base_model = service.create_rest_client().get_weights_info_by_tinker_path(model).base_model
        except APIStatusError as error:
            raise TokenizerError(f"the server does not return the base model of {model}: {error}") from error
    return load_tokenizer(choose_tokenizer(base_model).id)


class PromptSampler:
    """Submits prompts. Used by one thread.

    Args:
        options: "num_samples", "logprobs", and the fields of ``SamplingParams``.
        timeout: Seconds for each prompt. None: no limit.
    """

    def __init__(
        self,
        service: ServiceClient,
        tokenizer: PromptTokenizer,
        model: str,
        options: Mapping[str, Any],
        timeout: Optional[float],
    ) -> None:
        from ...types import SamplingParams

        fields = dict(options)
        self.tokenizer = tokenizer
        #: Whether replies contain the log probability of each token.
        self.logprobs: bool = fields.pop("logprobs")
        self._num_samples: int = fields.pop("num_samples")
        self._params = SamplingParams(**fields)
        self._timeout = timeout
        path = model if model.startswith(_SCHEME) else None
        self._client: SamplingClient = service.create_sampling_client(
            model_path=path, base_model=None if path else model
        )

    def submit(self, prompt: Prompt) -> Future[Any]:
        """Submit a prompt without waiting for the network.

        Raises:
            ValueError: The prompt has no tokens, or cannot be sent.
        """
        from ...types import ModelInput

        tokens = self.tokenizer.encode(prompt)
        if not tokens:
            raise ValueError("the prompt is empty: the tokenizer returns no tokens for it")
        return self._client.submit_sample(
            ModelInput.from_ints(tokens), self._num_samples, self._params, timeout=self._timeout
        )
