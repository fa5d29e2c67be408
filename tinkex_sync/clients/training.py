"""Training: one LoRA adapter, its gradients and optimizer, saved and loaded; in order, blocking or submitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, TypeVar

from .. import types
from ..errors import (
    APIResponseValidationError,
)
from ..futures import Future
from ..open_calls import OpenCall
from ..retry import RetryConfig
from .operations import LaneClient
from .sampling import SamplingClient
from .sampling_sessions import check_model_path, open_sampling_client

__all__ = ["TrainStepOutput", "TrainingClient"]

T = TypeVar("T")


@dataclass(frozen=True)
class TrainStepOutput:
    """Results of one :meth:`TrainingClient.train_step`."""

    forward_backward: types.ForwardBackwardOutput
    optim_step: types.OptimStepResponse

    @property
    def metrics(self) -> Dict[str, float]:
        """Metrics of both; the optimizer's win where names clash."""
        return {**self.forward_backward.metrics, **(self.optim_step.metrics or {})}

    @property
    def loss_fn_outputs(self) -> List[Dict[str, types.TensorData]]:
        """Per datum, in order: its tensors by name, such as "logprobs"."""
        return self.forward_backward.loss_fn_outputs


class TrainingClient(LaneClient):
    """Trains one model. Thread-safe; made by :class:`ServiceClient`.

    Operations are sent by one daemon thread in the order they were asked for, whichever thread asks. Blocking
    forms submit, then wait: an interrupt or a timeout ends the wait, and an operation that was already sent
    goes on.
    """

    def __repr__(self) -> str:
        return f"<TrainingClient {self.model_id!r}>"

    # Forward and backward

    def forward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.ForwardBackwardOutput:
        """Losses and log probabilities of a batch, without gradients. POST /api/v1/forward.

        Arguments and errors as :meth:`forward_backward`.
        """
        return self._wait(lambda: self.submit_forward(data, loss_fn, loss_fn_config), timeout)

    def submit_forward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> Future[types.ForwardBackwardOutput]:
        """:meth:`forward`, without waiting."""
        return self._submit_batch("forward", data, loss_fn, loss_fn_config)[0].future

    def forward_backward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.ForwardBackwardOutput:
        """Add a batch's gradients to those the model holds, and wait. POST /api/v1/forward_backward.

        A large batch goes out in chunks of at most ``Config.max_chunk_datums`` and ``max_chunk_bytes``; their
        results come back as one.

        Args:
            data: Datums; drawn before this sends anything.
            loss_fn: "cross_entropy", "importance_sampling", "ppo", "cispo" or "dro".
            loss_fn_config: The loss's own settings by name, such as clip thresholds.
            timeout: Seconds to wait; default ``Config.timeout``.

        Raises:
            ValueError, TypeError: an argument is wrong; nothing was sent.
            PartialBatchError: a later chunk was refused; it says which datums are accumulated.
            OutcomeUnknownError: a reply was lost; the operation may have been applied.
            RequestFailedError, PromiseExpiredError: it was accepted and has no result.
            APIError: it was refused, or could not be sent for five minutes.
            DeadlineExceeded: ``timeout`` ran out; its ``sent`` is "no" if the operation was withdrawn.
        """
        return self._wait(lambda: self.submit_forward_backward(data, loss_fn, loss_fn_config), timeout)

    def submit_forward_backward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> Future[types.ForwardBackwardOutput]:
        """:meth:`forward_backward`, without waiting."""
        return self._submit_batch("forward_backward", data, loss_fn, loss_fn_config)[0].future

    def optim_step(
        self, adam_params: types.AdamParams, *, timeout: Optional[float] = None
    ) -> types.OptimStepResponse:
        """Update the weights by the accumulated gradients, and clear those. POST /api/v1/optim_step.

        Errors as :meth:`forward_backward`.
        """
        return self._wait(lambda: self.submit_optim_step(adam_params), timeout)

    def submit_optim_step(self, adam_params: types.AdamParams) -> Future[types.OptimStepResponse]:
        """:meth:`optim_step`, without waiting."""
        future, job = self._optim_step(adam_params, None)
        self._enqueue([future], job)
        return future

    def train_step(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        adam_params: types.AdamParams,
        loss_fn_config: Optional[Dict[str, float]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> TrainStepOutput:
        """One forward_backward and one optim_step, sent back to back, so that no cycle of the server is lost.

        The optimizer step goes out only once every chunk of the batch was accepted; otherwise it is withdrawn, and
        the error raised is the batch's. Arguments and errors as :meth:`forward_backward`.
        """
        session = self._session
        deadline = session.deadline(timeout)
        backward, step = self.submit_train_step(data, loss_fn, adam_params, loss_fn_config)
        try:
            output = self._wait_until(backward, deadline)
        except BaseException:
            step.abandon()
            raise
        return TrainStepOutput(output, self._wait_until(step, deadline))

    def submit_train_step(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        adam_params: types.AdamParams,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> tuple[Future[types.ForwardBackwardOutput], Future[types.OptimStepResponse]]:
        """:meth:`train_step`, without waiting: the futures of the backward pass and of the optimizer step."""
        if not isinstance(adam_params, types.AdamParams):
            raise TypeError(f"adam_params must be AdamParams, not {type(adam_params).__name__}")
        batch, send = self._batch("forward_backward", data, loss_fn, loss_fn_config)
        step, step_job = self._optim_step(adam_params, batch)
        self._enqueue([batch.future, step], send, step_job)
        return batch.future, step

    # Saving and loading

    def save_state(self, name: str, *, timeout: Optional[float] = None) -> types.SaveWeightsResponse:
        """Save weights and optimizer state under a name. POST /api/v1/save_weights."""
        return self._wait(lambda: self.submit_save_state(name), timeout)

    def submit_save_state(self, name: str) -> Future[types.SaveWeightsResponse]:
        """:meth:`save_state`, without waiting."""
        return self._submit_one("save_state", "save_weights", {"path": _named("name", name)})

    def load_state(self, path: str, *, timeout: Optional[float] = None) -> types.LoadWeightsResponse:
        """Load weights from a ``tinker://`` path, with a fresh optimizer. POST /api/v1/load_weights."""
        return self._wait(lambda: self.submit_load_state(path), timeout)

    def submit_load_state(self, path: str) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state`, without waiting."""
        return self._submit_one(
            "load_state", "load_weights", {"path": _named("path", path), "optimizer": False}
        )

    def load_state_with_optimizer(
        self, path: str, *, timeout: Optional[float] = None
    ) -> types.LoadWeightsResponse:
        """Load weights and optimizer state from a ``tinker://`` path. POST /api/v1/load_weights."""
        return self._wait(lambda: self.submit_load_state_with_optimizer(path), timeout)

    def submit_load_state_with_optimizer(self, path: str) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state_with_optimizer`, without waiting."""
        return self._submit_one(
            "load_state_with_optimizer", "load_weights", {"path": _named("path", path), "optimizer": True}
        )

    def save_weights_for_sampler(
        self, name: str, *, timeout: Optional[float] = None
    ) -> types.SaveWeightsForSamplerResponse:
        """Save the weights for sampling, under a name. POST /api/v1/save_weights_for_sampler."""
        return self._wait(lambda: self.submit_save_weights_for_sampler(name), timeout)

    def submit_save_weights_for_sampler(self, name: str) -> Future[types.SaveWeightsForSamplerResponse]:
        """:meth:`save_weights_for_sampler`, without waiting."""
        return self._submit_one(
            "save_weights_for_sampler", "save_weights_for_sampler", {"path": _named("name", name)}, _saved
        )

    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Save the weights and sample from them: under ``name`` if given, else for this session only."""
        return self._wait(
            lambda: self.submit_save_weights_and_get_sampling_client(name, retry_config), timeout
        )

    def submit_save_weights_and_get_sampling_client(
        self, name: Optional[str] = None, retry_config: Optional[RetryConfig] = None
    ) -> Future[SamplingClient]:
        """:meth:`save_weights_and_get_sampling_client`, without waiting."""
        session = self._session
        operation = "save_weights_and_get_sampling_client"
        if name is not None:

            def open_named(saved: types.SaveWeightsForSamplerResponseInternal) -> SamplingClient:
                return open_sampling_client(
                    session, model_path=_saved(saved).path, base_model=None, retry_config=retry_config
                )

            return self._submit_one(
                operation, "save_weights_for_sampler", {"path": _named("name", name)}, open_named
            )

        def open_ephemeral(saved: types.SaveWeightsForSamplerResponseInternal) -> SamplingClient:
            if not saved.sampling_session_id:
                raise APIResponseValidationError(
                    "the server saved the weights and named no sampling session", path="sampling_session_id"
                )
            return SamplingClient(session, saved.sampling_session_id, retry_config=retry_config)

        number = session.next_number("sampling_session_seq_id")
        return self._submit_one(
            operation, "save_weights_for_sampler", {"sampling_session_seq_id": number}, open_ephemeral
        )

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Sample from saved weights, named by a ``tinker://`` path. POST /api/v1/create_sampling_session."""
        return self._run(
            "create_sampling_client",
            lambda call, deadline: open_sampling_client(
                self._session,
                model_path=model_path,
                base_model=None,
                retry_config=retry_config,
                call=call,
                deadline=deadline,
            ),
            timeout,
        )

    def submit_create_sampling_client(
        self, model_path: str, retry_config: Optional[RetryConfig] = None
    ) -> Future[SamplingClient]:
        """:meth:`create_sampling_client`, without waiting."""
        check_model_path(model_path)
        return self._submit(
            "create_sampling_client",
            lambda call, deadline: open_sampling_client(
                self._session,
                model_path=model_path,
                base_model=None,
                retry_config=retry_config,
                call=call,
                deadline=deadline,
            ),
        )

    # Asking

    def get_info(self, *, timeout: Optional[float] = None) -> types.GetInfoResponse:
        """The model's base, adapter and tokenizer. POST /api/v1/get_info; takes no turn in the lane."""
        return self._run("get_info", self._get_info, timeout)

    def submit_get_info(self) -> Future[types.GetInfoResponse]:
        """:meth:`get_info`, without waiting."""
        return self._submit("get_info", self._get_info)

    def _get_info(self, call: OpenCall, deadline: Optional[float]) -> types.GetInfoResponse:
        info: types.GetInfoResponse = self._session.call(
            "get_info", {"model_id": self.model_id}, call=call, deadline=deadline
        )
        return info


def _named(what: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a text that is not empty, not {value!r}")
    return value


def _saved(
    saved: types.SaveWeightsForSamplerResponseInternal,
) -> types.SaveWeightsForSamplerResponse:
    if not saved.path:
        raise APIResponseValidationError("the server saved the weights and named no path", path="path")
    return types.SaveWeightsForSamplerResponse(path=saved.path)
