"""Sampling: one prompt, blocking or submitted."""

from __future__ import annotations

import itertools
import random
import weakref
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional

from .. import types
from ..errors import ClosedError
from ..futures import Future, resolve_in_worker
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import RetryConfig
from ..plugins.events import Source
from ..polling.bulk_poller import BulkPoller
from ..polling.queue_states import QueueStates
from ..protocol.byte_estimates import model_input_bytes
from ..sampling.many import SampleMany
from ..sampling.options import SampleOptions, sample_request
from ..sampling.places import Places
from ..sampling.request import Progress, Sample
from ..session import Session
from ..tokenizers.loading import choose_tokenizer, load_tokenizer
from .base import RebuildingClient, first_seq_id

__all__ = ["SamplingClient"]


#: Size of the range of ``seq_id`` that each copy of a sampling client has in protocol 0.38.
_NUMBERS_PER_CLONE = 1_000_000_000


class SamplingClient(RebuildingClient):
    """Draws completions from one set of weights. Thread-safe; made by the other clients.

    All samples of one service client, from all its threads and sampling clients, share one throttle.
    """

    def __init__(
        self,
        session: Session,
        sampling_session_id: str,
        *,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> None:
        super().__init__(session, Source("sampling", sampling_session_id, session.session_id))
        self._record_stability_info = record_stability_info
        if retry_config is None:
            # The server's word on how many at once counts where the user said nothing.
            most = session.capabilities.max_samples or RetryConfig.max_connections
            retry_config = RetryConfig(most, progress_timeout=session.config.progress_timeout)
        self._retry_config = retry_config
        self._begin(session, 0, 0)

    @property
    def sampling_session_id(self) -> str:
        """The server's id of what it samples from."""
        return self._source.id

    def _begin(self, session: Session, seq_id: int, clone_id: int) -> None:
        self._seq_ids = itertools.count(seq_id)
        self._states = QueueStates(session.observers, session.clock)
        self._progress = Progress(session.clock.time, self._retry_config.progress_timeout)
        self._places = Places(self._retry_config.max_connections)
        #: The one poll for all samples, where the server wants that.
        self._bulk: Optional[BulkPoller] = None
        if session.capabilities.bulk_polls:
            self._bulk = BulkPoller(session, self._source, clone_id)

    def _on_rebuilt(self, session: Session) -> None:
        if session.capabilities.numbers_sampler_copies:
            clone_id = self._clone_id(session)
            self._begin(session, clone_id * _NUMBERS_PER_CLONE, clone_id)
        else:
            self._begin(session, first_seq_id(), 0)

    def _clone_id(self, session: Session) -> int:
        """Tells this copy from others of the same sampler; 0 is the original. POST /api/v1/join_sampling_session."""
        if session.capabilities.joins_sampling_sessions:
            body = types.JoinSamplingSessionRequest(self._source.id)
            joined: types.JoinSamplingSessionResponse = session.call(Request("join_sampling_session", body))
            return joined.client_counter
        return random.SystemRandom().randrange(1, _NUMBERS_PER_CLONE + 1)

    def __getstate__(self) -> Dict[str, Any]:
        own = {"retry_config": self._retry_config, "record_stability_info": self._record_stability_info}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._retry_config = state["retry_config"]
        self._record_stability_info = state["record_stability_info"]

    def __repr__(self) -> str:
        return f"<SamplingClient {self.sampling_session_id!r}>"

    def _next_seq_id(self) -> int:
        return next(self._seq_ids)

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
    ) -> types.SampleResponse:
        """Draw completions of a prompt, and wait for them. POST /api/v1/asample.

        Args:
            num_samples: How many completions, at least 1.
            include_prompt_logprobs: Also return the natural log probability of each prompt token.
            topk_prompt_logprobs: Also return this many most likely tokens at each prompt position; 0: none.
            topk_sample_logprobs: The same for each position of the completions. This and what follows are of
                protocol 0.38, and sent only when set.
            target_prompt_logprobs: Also return the log probabilities of these tokens instead of the prompt's own:
                int64 TensorData (sparse too) or array of [prompt tokens - 1, K], -1 where nothing is asked.
            prompt_alt_tokens_k: Also draw this many alternatives to each prompt token.
            prompt_logprobs_last_n: Log probabilities for the last so many tokens of the prompt only.
            timeout: Seconds for all of it, waiting at the throttle included; default ``Config.timeout``.

        Raises:
            ValueError: an argument is wrong; nothing was sent.
            RequestFailedError: the server could not carry it out.
            OptionIgnoredError: it is too old for an option; a RuntimeError too, and has the ``reply``.
            APIStatusError, APIConnectionError: it was refused, or could not be sent for five minutes.
            DeadlineExceeded: ``timeout`` ran out; its ``sent`` tells whether the sample was withdrawn.
            ClosedError: the client was closed.
        """
        options = SampleOptions(
            topk_sample_logprobs, target_prompt_logprobs, prompt_alt_tokens_k, prompt_logprobs_last_n
        )
        body = self._body(
            prompt, num_samples, sampling_params, include_prompt_logprobs, topk_prompt_logprobs, options
        )
        return options.check_response(self._sample(body, prompt, timeout))

    def submit_sample(
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
    ) -> Future[types.SampleResponse]:
        """:meth:`sample`, without waiting: the future has the result."""
        options = SampleOptions(
            topk_sample_logprobs, target_prompt_logprobs, prompt_alt_tokens_k, prompt_logprobs_last_n
        )
        body = self._body(
            prompt, num_samples, sampling_params, include_prompt_logprobs, topk_prompt_logprobs, options
        )
        return self._submit_sample("sample", body, prompt, timeout, options.check_response)

    def compute_logprobs(
        self,
        prompt: types.ModelInput,
        prompt_logprobs_last_n: Optional[int] = None,
        *,
        timeout: Optional[float] = None,
    ) -> List[Optional[float]]:
        """Natural log probability of each prompt token given those before it; None for the first.

        Sampled as one token with prompt log probabilities. ``prompt_logprobs_last_n`` and errors as :meth:`sample`.
        """
        options = SampleOptions(prompt_logprobs_last_n=prompt_logprobs_last_n)
        body = self._body(prompt, 1, types.SamplingParams(max_tokens=1), True, 0, options)
        return _aligned(
            options.check_response(self._sample(body, prompt, timeout, "compute_logprobs")), prompt
        )

    def submit_compute_logprobs(
        self,
        prompt: types.ModelInput,
        prompt_logprobs_last_n: Optional[int] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Future[List[Optional[float]]]:
        """:meth:`compute_logprobs`, without waiting."""
        options = SampleOptions(prompt_logprobs_last_n=prompt_logprobs_last_n)
        body = self._body(prompt, 1, types.SamplingParams(max_tokens=1), True, 0, options)
        return self._submit_sample(
            "compute_logprobs",
            body,
            prompt,
            timeout,
            lambda reply: _aligned(options.check_response(reply), prompt),
        )

    def sample_many(
        self,
        prompts: Any,
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
        """Draw completions of many prompts from one thread; an iterator over the replies.

        The prompts are drawn from their iterable as it goes on, in the thread that iterates; at most
        ``max_in_flight`` are held. Leaving the iterator stops sending.

        Args:
            prompts: Iterable of ModelInput; may be endless.
            sampling_params: Default ``SamplingParams()``.
            ordered: True: replies in the order of the prompts. False: ``(index, reply)`` as they come.
            on_error: "raise" ends the iteration with the first error; "yield" gives the exception in the place of
                the reply.
            timeout: Seconds for each sample.
            **options: Those of :meth:`sample` for each prompt, such as ``topk_sample_logprobs``.

        Raises:
            ValueError, TypeError: an argument is wrong.
        """
        params = types.SamplingParams() if sampling_params is None else sampling_params
        SampleOptions(**options)  # an unknown name is told here, not at the first prompt
        return SampleMany(
            lambda prompt: self.submit_sample(
                prompt,
                num_samples,
                params,
                include_prompt_logprobs,
                topk_prompt_logprobs,
                timeout=timeout,
                **options,
            ),
            prompts,
            max_in_flight=max_in_flight,
            ordered=ordered,
            on_error=on_error,
        )

    # What it samples from

    def get_base_model(self, *, timeout: Optional[float] = None) -> str:
        """Name of the model it samples from, or that its weights adapt. GET /api/v1/samplers/{id}."""
        return self._run("get_base_model", self._base_model, timeout)

    def submit_get_base_model(self) -> Future[str]:
        """:meth:`get_base_model`, without waiting."""
        return self._submit("get_base_model", self._base_model)

    def _base_model(self, call: CallState, deadline: Optional[float]) -> str:
        found: types.GetSamplerResponse = self._session.call(
            Request("sampler", parts={"sampler": self.sampling_session_id}, call=call, deadline=deadline)
        )
        return found.base_model

    def get_tokenizer(self, *, timeout: Optional[float] = None) -> Any:
        """The base model's tokenizer; arguments and errors as of :meth:`TrainingClient.get_tokenizer`."""
        return self._run("get_tokenizer", self._named_tokenizer, timeout)

    def submit_get_tokenizer(self) -> Future[Any]:
        """:meth:`get_tokenizer`, without waiting."""
        return self._submit("get_tokenizer", self._named_tokenizer)

    def _named_tokenizer(self, call: CallState, deadline: Optional[float]) -> Any:
        return load_tokenizer(choose_tokenizer(self._base_model(call, deadline), None).id)

    def _body(self, *arguments: Any) -> types.SampleRequest:
        request = sample_request(self.sampling_session_id, *arguments)
        return replace(request, record_stability_info=True) if self._record_stability_info else request

    def _sample(
        self,
        body: types.SampleRequest,
        prompt: types.ModelInput,
        timeout: Optional[float],
        operation: str = "sample",
    ) -> types.SampleResponse:
        size = model_input_bytes(prompt)

        def operate(call: CallState, deadline: Optional[float]) -> types.SampleResponse:
            with self._places.place(self._session, call, deadline):
                self._progress.begin()
                success = False
                try:
                    reply = Sample(self, call, body, size, deadline).run()
                    success = True
                    return reply
                finally:
                    self._progress.end(success)

        return self._run(operation, operate, timeout)

    def _submit_sample(
        self,
        operation: str,
        body: types.SampleRequest,
        prompt: types.ModelInput,
        timeout: Optional[float],
        finish: Callable[[types.SampleResponse], Any],
    ) -> Future[Any]:
        session = self._session
        deadline = session.deadline(timeout)
        call = session.begin(self._source, operation)
        future: Future[Any] = Future(call)
        sample = Sample(self, call, body, model_input_bytes(prompt), deadline, future)
        progress, places = self._progress, self._places

        # Weakly: a future that nobody holds must go at once, to tell of its error.
        running = weakref.ref(sample)

        def recall() -> bool:
            # Only a promise can be taken back, not a request on its way.
            promise = getattr(running(), "promise", None)
            return promise is not None and session.cancel_remote(promise.request_id)

        future.cancel_remote = recall

        def fail(error: BaseException) -> None:
            progress.end(False)
            places.leave()
            resolve_in_worker(session, future, error=error)

        def start() -> bool:
            if session.dispatchers.submit(begin):
                return True
            session.end(call)
            future.set_exception(ClosedError("the client is closed"))
            return False

        def begin() -> None:
            if future.done():
                places.leave()
                session.end(call)
                return
            progress.begin()
            dispatch()

        def dispatch() -> None:
            try:
                sample.dispatch()
            except BaseException as error:
                fail(error)
            else:
                if not session.pollers.submit(fetch):
                    fail(ClosedError("the client was closed before the result was fetched"))

        def again() -> None:
            if not session.dispatchers.submit(dispatch):
                fail(ClosedError("the client was closed before the sample was drawn anew"))

        def fetch() -> None:
            try:
                reply = finish(sample.fetch())
            except Exception as error:
                if future.done():
                    fail(error)  # taken back, so the server has dropped it
                    return
                try:
                    delay = sample.renew(error)
                except Exception as final:
                    fail(final)
                else:
                    session.timer.at(session.clock.time() + delay, again)
            except BaseException as error:
                fail(error)
            else:
                progress.end(True)
                places.leave()
                session.end(call)
                future.set_result(reply)

        places.enter(start)
        return future


def _aligned(reply: types.SampleResponse, prompt: types.ModelInput) -> List[Optional[float]]:
    """One entry per prompt token: some servers leave out the first, which has no probability."""
    logprobs = list(reply.prompt_logprobs or [])
    if len(logprobs) == prompt.length - 1:
        return [None, *logprobs]
    return logprobs
