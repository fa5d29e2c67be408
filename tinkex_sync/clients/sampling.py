"""The client that samples completions from one model, and opening its session on the server."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, TypeVar

from .. import types
from ..futures import Operation
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import RetryConfig
from ..plugins.events import Source
from ..polling.bulk_poller import BulkPoller
from ..polling.queue_states import QueueStates
from ..sampling.context import Progress, SamplingContext
from ..sampling.many import SampleMany
from ..sampling.options import SampleOptions, make_sample_request
from ..sampling.request import SampleOperation
from ..session import Session
from ..throttle.semaphores import CountingSemaphore
from ..tokenizers.loading import choose_tokenizer, load_tokenizer
from ..validation import check_model_path
from .base import RebuildingClient, blocking, first_seq_id, request_operation, submitted

T = TypeVar("T")

#: Size of the range of ``seq_id`` that each copy of a sampling client has in protocol 0.38.
_SEQ_IDS_PER_COPY = 1_000_000_000


class SamplingClient(RebuildingClient):
    """Samples completions from saved weights or a base model. Thread-safe.

    The other clients make it. It continues to work in a forked process and after pickling. All samples of one service
    client share one throttle, from all of its sampling clients and threads.
    """

    def __init__(
        self,
        session: Session,
        sampling_session_id: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> None:
        super().__init__(session, Source("sampling", sampling_session_id, session.session_id))
        self._record_stability_info = record_stability_info
        self._retry_config = retry_config or RetryConfig(
            session.capabilities.max_samples or RetryConfig.max_connections,
            progress_timeout=session.config.progress_timeout,
        )
        self._context = self._make_context(session, 0, 0)

    @property
    def sampling_session_id(self) -> str:
        """The server's id of the sampling session."""
        return self.source.id

    def __repr__(self) -> str:
        return f"<SamplingClient {self.sampling_session_id!r}>"

    @blocking
    def sample(
        self,
        prompt: types.ModelInput,
        num_samples: int,
        sampling_params: types.SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        *,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: Any = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Operation[types.SampleResponse]:
        """Sample completions of a prompt. POST /api/v1/asample.

        Args:
            prompt: The tokens and images to continue; at least one token.
            num_samples: Number of completions, at least 1.
            sampling_params: How tokens are sampled.
            include_prompt_logprobs: Also return the natural log probability of each prompt token.
            topk_prompt_logprobs: Also return this many most probable tokens at each prompt position; 0: none.
            topk_sample_logprobs: Also return this many most probable tokens at each position of the completions. This
                and the following options exist since protocol 0.38.0. They are sent only if they are set.
            target_prompt_logprobs: Also return the log probabilities of these tokens at each prompt position: int64
                TensorData (also sparse) or array of shape [prompt tokens - 1, K]; -1 for positions without a token.
            prompt_alt_tokens_k: Also sample this many alternatives to each prompt token.
            prompt_logprobs_last_n: Return log probabilities only for this many tokens at the end of the prompt.
            timeout: Seconds until DeadlineExceeded, including the wait at the throttle; default: ``Config.timeout``.

        Returns:
            The completions, and the requested log probabilities of the prompt.

        Raises:
            ValueError, TypeError: An argument is invalid. Nothing was sent.
            RequestFailedError: The server could not sample.
            OptionIgnoredError: The server is too old for an option; the error has the response as ``response``.
            APIStatusError, APIConnectionError: The server rejected the request, or there was no response for five
                minutes.
            DeadlineExceeded: ``timeout`` has passed; ``sent`` is "no" if the sample was withdrawn.
            ClosedError: The client was closed.
        """
        options = SampleOptions(
            include_prompt_logprobs,
            topk_prompt_logprobs,
            topk_sample_logprobs,
            target_prompt_logprobs,
            prompt_alt_tokens_k,
            prompt_logprobs_last_n,
        )
        request = self._request(prompt, num_samples, sampling_params, options)
        return SampleOperation(self._context, "sample", request, options.check_response)

    submit_sample = submitted(sample)

    @blocking
    def compute_logprobs(
        self, prompt: types.ModelInput, prompt_logprobs_last_n: Optional[int] = None, *, timeout: Optional[float] = None
    ) -> Operation[List[Optional[float]]]:
        """Compute the natural log probability of each prompt token given the tokens before it.

        It samples one token with log probabilities of the prompt. POST /api/v1/asample.

        Args:
            prompt: The tokens; at least one.
            prompt_logprobs_last_n: As for :meth:`sample`.
            timeout: As for :meth:`sample`.

        Returns:
            One entry per prompt token. The first one is None, because no token precedes it.

        Raises:
            TinkexError: As for :meth:`sample`.
        """
        options = SampleOptions(include_prompt_logprobs=True, prompt_logprobs_last_n=prompt_logprobs_last_n)
        request = self._request(prompt, 1, types.SamplingParams(max_tokens=1), options)

        def align(response: types.SampleResponse) -> List[Optional[float]]:
            logprobs = list(options.check_response(response).prompt_logprobs or [])
            # Some servers omit the first token.
            return [None, *logprobs] if len(logprobs) == prompt.length - 1 else logprobs

        return SampleOperation(self._context, "compute_logprobs", request, align)

    submit_compute_logprobs = submitted(compute_logprobs)

    def sample_many(
        self,
        prompts: Iterable[types.ModelInput],
        num_samples: int = 1,
        sampling_params: Optional[types.SamplingParams] = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        *,
        max_in_flight: int = 256,
        ordered: bool = True,
        on_error: str = "raise",
        timeout: Optional[float] = None,
        **options: Any,
    ) -> SampleMany:
        """Sample completions of many prompts from one thread.

        The prompts are read one by one in the thread that iterates. Leaving the iterator withdraws the samples that
        were not sent.

        Args:
            prompts: Prompts; the iterable may be infinite.
            num_samples: As for :meth:`sample`, as are the three following arguments.
            sampling_params: Default: ``SamplingParams()``.
            max_in_flight: Most samples that are in progress, or finished and not yet returned.
            ordered: True: responses in the order of the prompts. False: ``(index, response)`` in order of completion.
            on_error: "raise": the first error ends the iteration. "yield": the exception takes the place of the
                response.
            timeout: Seconds for each sample.
            **options: The other options of :meth:`sample`, such as ``topk_sample_logprobs``.

        Returns:
            An iterator over responses.

        Raises:
            ValueError, TypeError: An argument is invalid.
        """
        params = types.SamplingParams() if sampling_params is None else sampling_params
        SampleOptions(**options)  # reports an unknown name here, not at the first prompt

        def submit(prompt: types.ModelInput) -> Any:
            return self.submit_sample(
                prompt, num_samples, params, include_prompt_logprobs, topk_prompt_logprobs, timeout=timeout, **options
            )

        return SampleMany(submit, prompts, max_in_flight=max_in_flight, ordered=ordered, on_error=on_error)

    @blocking
    def get_base_model(self, *, timeout: Optional[float] = None) -> Operation[str]:
        """Return the name of the model that is sampled, or that its weights adapt. GET /api/v1/samplers/{id}.

        Args:
            timeout: Seconds until DeadlineExceeded; default: ``Config.timeout``.

        Raises:
            APIStatusError, APIConnectionError: The server rejected the request, or did not respond.
        """
        return request_operation(self, "get_base_model", self._sampler_request(), _base_model_of)

    submit_get_base_model = submitted(get_base_model)

    @blocking
    def get_tokenizer(self, *, timeout: Optional[float] = None) -> Operation[Any]:
        """Load the tokenizer of the base model, as :meth:`TrainingClient.get_tokenizer`.

        Args:
            timeout: Seconds for the server's response; a download of the tokenizer has timeouts of its own.

        Raises:
            MissingExtraError: A library is missing: ``pip install "tinkex-sync[tokenizers]"``.
            TokenizerError: The tokenizer cannot be found or read.
        """
        return request_operation(self, "get_tokenizer", self._sampler_request(), _load_tokenizer_of)

    submit_get_tokenizer = submitted(get_tokenizer)

    def _sampler_request(self) -> Request:
        return Request("sampler", path_values={"sampler": self.sampling_session_id})

    def _request(
        self, prompt: types.ModelInput, num_samples: int, sampling_params: types.SamplingParams, options: SampleOptions
    ) -> types.SampleRequest:
        # In another process, the property joins the session and makes the context.
        self.session.check_usable()
        return make_sample_request(
            *(self.sampling_session_id, prompt, num_samples, sampling_params, options),
            record_stability_info=self._record_stability_info,
        )

    # The state that belongs to a session

    def _make_context(self, session: Session, first_seq_id: int, copy_number: int) -> SamplingContext:
        retry = self._retry_config
        has_bulk = session.capabilities.bulk_polls
        return SamplingContext(
            session,
            self.source,
            retry,
            CountingSemaphore(retry.max_connections, session.clock),
            Progress(session.clock.time, retry.progress_timeout),
            QueueStates(session.observers, session.clock),
            BulkPoller(session, self.source, copy_number) if has_bulk else None,
            itertools.count(first_seq_id),
        )

    def _on_rebuilt(self, session: Session) -> None:
        if session.capabilities.numbers_sampler_copies:
            number = self._copy_number(session)
            self._context = self._make_context(session, number * _SEQ_IDS_PER_COPY, number)
        else:
            self._context = self._make_context(session, first_seq_id(), 0)

    def _copy_number(self, session: Session) -> int:
        """Return a number that no other copy of this sampling client has; the original has 0.

        POST /api/v1/join_sampling_session.
        """
        if session.capabilities.joins_sampling_sessions:
            body = types.JoinSamplingSessionRequest(self.sampling_session_id)
            joined: types.JoinSamplingSessionResponse = session.call(Request("join_sampling_session", body))
            return joined.client_counter
        return random.SystemRandom().randrange(1, _SEQ_IDS_PER_COPY + 1)

    def __getstate__(self) -> Dict[str, Any]:
        own = {"retry_config": self._retry_config, "record_stability_info": self._record_stability_info}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._retry_config = state["retry_config"]
        self._record_stability_info = state["record_stability_info"]


def _base_model_of(sampler: types.GetSamplerResponse) -> str:
    return sampler.base_model


def _load_tokenizer_of(sampler: types.GetSamplerResponse) -> Any:
    return load_tokenizer(choose_tokenizer(sampler.base_model, None).id)


@dataclass(frozen=True)
class NewSampler:
    """A sampling session to open on saved weights or on a base model. Immutable.

    Args:
        model_path: Path of saved weights, or None.
        base_model: Name of the model; needed if there is no path.
        retry_config: How samples are retried; None: the defaults, with the server's limit of samples in progress.
        record_stability_info: Request that the server records information about numerical stability.

    Raises:
        ValueError: Neither path nor model is given, or the path does not start with ``tinker://``.
    """

    model_path: Optional[str] = None
    base_model: Optional[str] = None
    retry_config: Optional[RetryConfig] = None
    record_stability_info: bool = False

    def __post_init__(self) -> None:
        if self.model_path is None and self.base_model is None:
            raise ValueError("Either model_path or base_model must be provided")
        if self.model_path is not None:
            check_model_path(self.model_path)

    def open(
        self, session: Session, call: Optional[CallState] = None, deadline: Optional[float] = None
    ) -> SamplingClient:
        """Open the sampling session and return its client. POST /api/v1/create_sampling_session."""
        number = session.next_number("sampling_session_seq_id")
        body = types.CreateSamplingSessionRequest(session.session_id, number, self.base_model, self.model_path)
        opened = session.call(Request("create_sampling_session", body, call=call, deadline=deadline))
        made = SamplingClient(session, opened.sampling_session_id, self.retry_config, self.record_stability_info)
        session.report_client(made.source, call, base_model=self.base_model, model_path=self.model_path)
        return made
