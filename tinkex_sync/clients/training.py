"""The training client: trains one model, and saves and loads its weights."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any, Callable, Dict, Iterable, Literal, Mapping, Optional, Sequence, Tuple, TypeVar

from .. import types
from ..errors import APIResponseValidationError, TinkexError
from ..futures import Future, Operation, wait_until
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import RetryConfig
from ..session import Session
from ..tokenizers.loading import choose_tokenizer, load_tokenizer
from ..training.batch import BatchOperation
from ..training.custom_loss import CustomLossOperation, LossFunction
from ..training.lane import TrainingLane
from ..training.operations import OptimizerStep, RequestOperation, TrainStepOutput, describe_optimizer_step
from ..validation import check_labels, check_model_path, check_optional_text, check_text, check_ttl
from .base import CallOperation, Client, blocking, request_operation, submitted
from .sampling import NewSampler, SamplingClient

T = TypeVar("T")


class TrainingClient(Client):
    """Trains one model. Thread-safe; made by :class:`ServiceClient`.

    Operations are sent by one daemon thread in the order of submission. Blocking methods submit the operation and wait
    for its result: an interrupt or a timeout ends the wait, and an operation that was already sent continues. All
    methods accept ``timeout``, in seconds; its default is ``Config.timeout`` for blocking methods and no limit for
    submitted operations.

    Args:
        first_seq_id: The sequence number of the client's first request.
    """

    def __init__(self, session: Session, model_id: str, *, first_seq_id: int = 1) -> None:
        self._lane = TrainingLane(session, model_id, first_seq_id=first_seq_id)
        super().__init__(session, self._lane.source)
        self.model_id = model_id
        self._tokenizer: Any = None

    def __repr__(self) -> str:
        return f"<TrainingClient {self.model_id!r}>"

    # Passes over batches and optimizer steps

    @blocking
    def forward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.ForwardBackwardOutput]:
        """Compute losses and log probabilities of a batch, without gradients. POST /api/v1/forward.

        Arguments and errors are those of :meth:`forward_backward`.
        """
        return BatchOperation(self._lane, "forward", data, loss_fn, loss_fn_config)

    submit_forward = submitted(forward)

    @blocking
    def forward_backward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.ForwardBackwardOutput]:
        """Add the gradients of a batch to those that the model has accumulated. POST /api/v1/forward_backward.

        A large batch is sent in chunks of at most ``Config.max_chunk_datums`` and ``max_chunk_bytes``. Their results
        are merged.

        Args:
            data: Datums. The iterable is read to its end before anything is sent.
            loss_fn: "cross_entropy", "importance_sampling", "ppo", "cispo" or "dro"; with protocol 0.38.0 also "gspo",
                "stable_reinforce" and "custom".
            loss_fn_config: Settings of the loss function by name, such as clip thresholds.
            timeout: Seconds.

        Returns:
            One dict of tensors per datum, in the order of ``data``, and the merged metrics.

        Raises:
            ValueError, TypeError: An argument is invalid; nothing was sent.
            PartialBatchError: A chunk after the first was rejected. The error has the ranges of accumulated datums.
            OutcomeUnknownError: A response was lost; the operation may have been applied.
            RequestFailedError, PromiseExpiredError: The server accepted the operation and has no result.
            APIError: The server rejected the operation, or it could not be sent for five minutes.
            DeadlineExceeded: ``timeout`` passed; ``sent`` of the error is "no" if the operation was withdrawn.
        """
        return BatchOperation(self._lane, "forward_backward", data, loss_fn, loss_fn_config)

    submit_forward_backward = submitted(forward_backward)

    @blocking
    def forward_backward_custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: LossFunction,
        *,
        backend: Literal["auto", "torch", "numpy"] = "auto",
        timeout: Optional[float] = None,
    ) -> Operation[types.ForwardBackwardOutput]:
        """Add the gradients of your own loss function to those that the model has accumulated.

        A forward pass returns the log probabilities of the targets. ``loss_fn`` is called with them in this thread. Its
        gradient is sent as the weights of a second pass with "cross_entropy", whose result is returned. The loss
        function's metrics are merged into the result's metrics and win on conflicts. With a server of protocol 0.38.0,
        "loss:sum" is your loss, and "surrogate_loss:sum" is the server's. Only ``target_tokens`` of a datum's inputs
        are sent with the second pass.

        The submitted form also computes the loss in this thread: it waits for the forward pass, for ``timeout`` or
        ``Config.timeout`` seconds, and raises its errors. Its future is that of the second pass.

        Args:
            data: Datums with ``target_tokens`` and all inputs that ``loss_fn`` reads.
            loss_fn: Called once with the list of datums and a list of one-dimensional float32 log probabilities.
                With torch, these are leaf tensors, and it returns ``(loss, metrics)``: one element that depends on
                every tensor, and a dict of numbers. With numpy, they are arrays, and it returns ``(loss, gradients,
                metrics)``, with one gradient array per datum.
            backend: "auto" is torch if it can be imported, otherwise numpy.
            timeout: Seconds for both passes. The loss function is not interrupted.

        Raises:
            MissingExtraError: Neither torch nor numpy is installed; nothing was sent.
            ValueError: A datum has no gradient, or one that is not finite; no gradient was sent.
            RuntimeError: The loss is not a scalar or does not depend on the log probabilities; no gradient was sent.
            APIResponseValidationError: A datum's log probabilities are missing; no gradient was sent.
            KeyError: A datum has no ``target_tokens``; no gradient was sent.
            Exception: Those of :meth:`forward_backward` and of ``loss_fn``.
        """
        return CustomLossOperation(self._lane, data, loss_fn, backend)

    submit_forward_backward_custom = submitted(forward_backward_custom)

    @blocking
    def optim_step(
        self, adam_params: types.OptimParams, *, timeout: Optional[float] = None
    ) -> Operation[types.OptimStepResponse]:
        """Update the weights with the accumulated gradients, and clear the gradients. POST /api/v1/optim_step.

        Errors are those of :meth:`forward_backward`.

        Args:
            adam_params: AdamParams; DimuonParams for a model created with ``optimizer=DimuonOptimizerConfig()``.
            timeout: Seconds.
        """
        return OptimizerStep(self._lane, adam_params)

    submit_optim_step = submitted(optim_step)

    def train_step(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        adam_params: types.OptimParams,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> TrainStepOutput:
        """Send a backward pass and the optimizer step after it without waiting in between, and wait for both.

        The optimizer step is sent only after every chunk of the batch was accepted. Otherwise it is withdrawn, and the
        error of the batch is raised. Arguments and errors are those of :meth:`forward_backward`. The text of an error,
        and its attribute ``optimizer_step``, report what became of the optimizer step: if it was applied, repeating the
        step would apply it twice.
        """
        deadline = self.session.deadline(timeout)
        backward, step = self.submit_train_step(data, loss_fn, adam_params, loss_fn_config)
        try:
            output = wait_until(self.session, backward, deadline)
        except BaseException as error:
            if isinstance(error, TinkexError):
                describe_optimizer_step(error, self.session, step, deadline)
            step.abandon()
            raise
        return TrainStepOutput(output, wait_until(self.session, step, deadline))

    def submit_train_step(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        adam_params: types.OptimParams,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Tuple[Future[types.ForwardBackwardOutput], Future[types.OptimStepResponse]]:
        """Start :meth:`train_step` and return the futures of the backward pass and of the optimizer step."""
        backward = BatchOperation(self._lane, "forward_backward", data, loss_fn, loss_fn_config)
        step = OptimizerStep(self._lane, adam_params, backward)
        self._lane.enqueue(timeout, backward, step)
        return backward.future, step.future

    # Checkpoints

    @blocking
    def save_state(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        overwrite: bool = False,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.SaveWeightsResponse]:
        """Save weights and optimizer state under a name. POST /api/v1/save_weights.

        Args:
            name: The checkpoint's name.
            ttl_seconds: Seconds, at least 1, until the server deletes the checkpoint; None: never (0.38.0).
            overwrite: Replace a checkpoint of the same name (0.38.0).
            user_metadata: Labels stored with the checkpoint (0.38.0).
            timeout: Seconds.
        """
        request = types.SaveWeightsRequest(
            self.model_id,
            path=check_text("name", name),
            ttl_seconds=check_ttl(ttl_seconds),
            user_metadata=check_labels(user_metadata),
            overwrite=overwrite or None,
        )
        find_result = self._finder(types.SaveWeightsResponse, f"weights/{name}")
        return RequestOperation(self._lane, "save_state", request, "save_weights", find_result=find_result)

    submit_save_state = submitted(save_state)

    @blocking
    def load_state(
        self, path: str, weights_access_token: Optional[str] = None, *, timeout: Optional[float] = None
    ) -> Operation[types.LoadWeightsResponse]:
        """Load weights, without optimizer state, from a ``tinker://`` path. POST /api/v1/load_weights.

        Args:
            path: ``tinker://RUN/weights/NAME``.
            weights_access_token: Gives access to weights of another account (0.38.0).
            timeout: Seconds.
        """
        return self._load("load_state", path, weights_access_token, optimizer=False)

    submit_load_state = submitted(load_state)

    @blocking
    def load_state_with_optimizer(
        self, path: str, weights_access_token: Optional[str] = None, *, timeout: Optional[float] = None
    ) -> Operation[types.LoadWeightsResponse]:
        """Load weights and optimizer state from a ``tinker://`` path. POST /api/v1/load_weights.

        Arguments are those of :meth:`load_state`.
        """
        return self._load("load_state_with_optimizer", path, weights_access_token, optimizer=True)

    submit_load_state_with_optimizer = submitted(load_state_with_optimizer)

    def _finder(self, kind: Callable[[str], T], checkpoint_id: str) -> Callable[[], Optional[T]]:
        """Return a function that returns the result of a save from now on, if the server lists its checkpoint."""
        started = datetime.now(timezone.utc)

        def find() -> Optional[T]:
            with suppress(TinkexError):
                request = Request("run_checkpoints", path_values={"run": self.model_id})
                for one in self.session.call(request).checkpoints:
                    if one.checkpoint_id == checkpoint_id and one.time is not None and one.time >= started:
                        return kind(one.tinker_path)
            return None

        return find

    def _load(
        self, name: str, path: str, token: Optional[str], *, optimizer: bool
    ) -> RequestOperation[types.LoadWeightsResponse]:
        request = types.LoadWeightsRequest(
            self.model_id,
            path=check_text("path", path),
            optimizer=optimizer,
            weights_access_token=check_optional_text("weights_access_token", token, secret=True),
        )
        return RequestOperation(self._lane, name, request, "load_weights")

    @blocking
    def save_weights_for_sampler(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.SaveWeightsForSamplerResponse]:
        """Save the weights for sampling, under a name. POST /api/v1/save_weights_for_sampler.

        Arguments are those of :meth:`save_state`.
        """
        request = types.SaveWeightsForSamplerRequest(
            self.model_id,
            path=check_text("name", name),
            ttl_seconds=check_ttl(ttl_seconds),
            user_metadata=check_labels(user_metadata),
        )
        find_result = self._finder(types.SaveWeightsForSamplerResponse, f"sampler_weights/{name}")
        return RequestOperation(
            self._lane,
            "save_weights_for_sampler",
            request,
            convert=lambda saved, call: _named_save(saved),
            find_result=find_result,
        )

    submit_save_weights_for_sampler = submitted(save_weights_for_sampler)

    @blocking
    def save_weights_external(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        age_encryption_recipients: Optional[Sequence[str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.SaveWeightsExternalResponse]:
        """Save the weights for download, under a name. POST /api/v1/save_weights_external (0.38.0).

        Args:
            name: The name of the saved weights.
            ttl_seconds: As for :meth:`save_state`.
            age_encryption_recipients: Public keys of age, for which the files are encrypted.
            timeout: Seconds.
        """
        recipients = None if age_encryption_recipients is None else list(age_encryption_recipients)
        if recipients is not None and not (recipients and all(isinstance(one, str) for one in recipients)):
            raise ValueError(f"age_encryption_recipients must be public keys, not {age_encryption_recipients!r}")
        request = types.SaveWeightsExternalRequest(
            self.model_id,
            path=check_text("name", name),
            ttl_seconds=check_ttl(ttl_seconds),
            age_encryption_recipients=recipients,
        )
        return RequestOperation(self._lane, "save_weights_external", request)

    submit_save_weights_external = submitted(save_weights_external)

    # Sampling clients

    @blocking
    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        kind: Optional[Literal["snapshot", "inflight"]] = None,
        record_stability_info: bool = False,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[SamplingClient]:
        """Save the weights and return a client that samples from them. POST /api/v1/save_weights_for_sampler.

        Args:
            name: Name of the saved weights; None: they exist for one sampling session only.
            retry_config: How the client's samples are retried.
            kind: Without a name only (0.38.0). "inflight": samples in progress continue with the new weights.
                "snapshot": they continue with the old weights. None: the server chooses.
            record_stability_info: As for :meth:`ServiceClient.create_sampling_client`.
            timeout: Seconds.
        """
        if kind not in (None, "snapshot", "inflight") or (kind is not None and name is not None):
            raise ValueError(f"kind={kind!r}: give 'snapshot' or 'inflight', and no name; or leave it out")
        session, is_named = self.session, name is not None
        request = types.SaveWeightsForSamplerRequest(
            self.model_id,
            path=check_text("name", name) if is_named else None,
            sampling_session_seq_id=None if is_named else session.next_number("sampling_session_seq_id"),
            kind=kind,
        )

        def open_client(saved: types.SaveWeightsForSamplerResponseInternal, call: CallState) -> SamplingClient:
            if not is_named and saved.sampling_session_id:
                made = SamplingClient(session, saved.sampling_session_id, retry_config, record_stability_info)
                session.report_client(made.source, call)
                return made
            # Without a name, some servers save under a name of their own.
            sampler = NewSampler(_named_save(saved).path, None, retry_config, record_stability_info)
            return sampler.open(session, call)

        operation = "save_weights_and_get_sampling_client"
        return RequestOperation(self._lane, operation, request, "save_weights_for_sampler", open_client)

    submit_save_weights_and_get_sampling_client = submitted(save_weights_and_get_sampling_client)

    @blocking
    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[SamplingClient]:
        """Return a client that samples from saved weights. POST /api/v1/create_sampling_session.

        Args:
            model_path: ``tinker://RUN/sampler_weights/NAME``.
            retry_config: How the client's samples are retried.
            record_stability_info: As for :meth:`ServiceClient.create_sampling_client`.
            timeout: Seconds.
        """
        sampler = NewSampler(check_model_path(model_path), None, retry_config, record_stability_info)
        return CallOperation(self, "create_sampling_client", partial(sampler.open, self.session))

    submit_create_sampling_client = submitted(create_sampling_client)

    # Facts about the model

    @blocking
    def get_info(self, *, timeout: Optional[float] = None) -> Operation[types.GetInfoResponse]:
        """Return the model's base, adapter and tokenizer, without waiting for its operations. POST /api/v1/get_info."""
        return request_operation(self, "get_info", Request("get_info", types.GetInfoRequest(self.model_id)))

    submit_get_info = submitted(get_info)

    @blocking
    def get_tokenizer(self, *, timeout: Optional[float] = None) -> Operation[Any]:
        """Return the tokenizer that the server names for the model. POST /api/v1/get_info.

        See :mod:`tinkex_sync.tokenizers`. The tokenizer is loaded once.

        Args:
            timeout: Seconds for the server's response. Loading from the Hugging Face hub has timeouts of its own.

        Raises:
            MissingExtraError: A library is missing: ``pip install "tinkex-sync[tokenizers]"``.
            TokenizerError: The tokenizer cannot be found or read.
        """
        return CallOperation(self, "get_tokenizer", self._load_tokenizer)

    submit_get_tokenizer = submitted(get_tokenizer)

    def _load_tokenizer(self, call: CallState, deadline: Optional[float]) -> Any:
        if self._tokenizer is None:
            request = Request("get_info", types.GetInfoRequest(self.model_id), call=call, deadline=deadline)
            model = self.session.call(request).model_data
            self._tokenizer = load_tokenizer(choose_tokenizer(model.model_name, model.tokenizer_id).id)
        return self._tokenizer


def _named_save(saved: types.SaveWeightsForSamplerResponseInternal) -> types.SaveWeightsForSamplerResponse:
    if not saved.path:
        raise APIResponseValidationError(
            "the server saved the weights and returned neither a path nor a sampling session", path="path"
        )
    return types.SaveWeightsForSamplerResponse(path=saved.path)
