"""Training: one LoRA adapter, its gradients and optimizer, saved and loaded; in order, blocking or submitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Literal, Optional, TypeVar

from .. import types
from ..concurrency.clock import remaining
from ..errors import DeadlineExceeded
from ..futures import Future
from ..http.call_state import CallState
from ..http.request import Request
from ..tokenizers.loading import choose_tokenizer, load_tokenizer
from ..training.custom_loss import LossFunction, chosen, for_forward, weighted, with_metrics
from ..training.lane import check_optimizer
from .weights import WeightsClient

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


class TrainingClient(WeightsClient):
    """Trains one model. Thread-safe; made by :class:`ServiceClient`.

    Operations are sent by one daemon thread in the order they were asked for, whichever thread asks. Blocking
    forms submit, then wait: an interrupt or a timeout ends the wait, and an operation that was already sent
    goes on.
    """

    _tokenizer: Any = None

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

    def forward_backward_custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: LossFunction,
        *,
        backend: Literal["auto", "torch", "numpy"] = "auto",
        timeout: Optional[float] = None,
    ) -> types.ForwardBackwardOutput:
        """As :meth:`forward_backward`, by a loss of your own.

        A forward pass gives the log probabilities of the targets; ``loss_fn`` is called with them in this thread;
        its gradient goes out as the weights of a second pass, with "cross_entropy". That one's result is returned,
        with the loss's metrics laid over its own; with a server of today's protocol "loss:sum" is your loss, and the
        server's own is "surrogate_loss:sum". Of a datum's inputs only ``target_tokens`` takes part in it.

        Args:
            data: Datums with ``target_tokens``, and whatever ``loss_fn`` reads from them.
            loss_fn: Called once, with the list of datums and a list of one-dimensional float32 log probabilities.
                With torch these are leaf tensors, and it returns ``(loss, metrics)``: one element that depends on
                every datum's, and a dict of numbers. With numpy they are arrays, and it returns ``(loss, gradients,
                metrics)``, with one gradient array per datum.
            backend: "auto" means torch where it can be imported, else numpy.
            timeout: Seconds for all of it; the loss itself is not cut short.

        Raises:
            MissingExtraError: neither torch nor numpy is there; nothing was sent.
            ValueError: no gradient for a datum, or one that is not finite; no gradient was sent.
            RuntimeError: the loss is not a scalar, or does not depend on the log probabilities; likewise.
            APIResponseValidationError: not every datum's log probabilities came back; likewise.
            KeyError: a datum has no ``target_tokens``; likewise.
            Others: those of :meth:`forward_backward`, and what ``loss_fn`` raises.
        """
        deadline = self._session.deadline(timeout)
        return self._wait_until(self._custom(data, loss_fn, backend, deadline), deadline)

    def submit_forward_backward_custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: LossFunction,
        *,
        backend: Literal["auto", "torch", "numpy"] = "auto",
    ) -> Future[types.ForwardBackwardOutput]:
        """:meth:`forward_backward_custom`, without waiting for the second pass.

        It does wait, for ``Config.timeout`` at most, for the forward pass, and computes the loss: what goes wrong
        until then is raised here. The future is that of the second pass.
        """
        return self._custom(data, loss_fn, backend, self._session.deadline(None))

    def _custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: LossFunction,
        backend: Literal["auto", "torch", "numpy"],
        deadline: Optional[float],
    ) -> Future[types.ForwardBackwardOutput]:
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function of (data, logprobs), not {loss_fn!r}")
        differentiate = chosen(backend)
        datums = list(data)
        modern = self._session.protocol.modern
        scored = for_forward(datums) if modern else datums
        forward = self._wait_until(self.submit_forward(scored, "cross_entropy"), deadline)
        batch, metrics, loss = weighted(datums, forward, loss_fn, differentiate)
        if remaining(self._session.clock, deadline) == 0:
            raise DeadlineExceeded(
                "forward_backward_custom: the timeout ran out while the loss was computed; no gradient was sent",
                phase="queued",
                sent="no",
            )
        laid = with_metrics(metrics, loss if modern else None)
        second, send = self._batch("forward_backward", batch, "cross_entropy", None, laid)
        self._enqueue([second.future], send)
        return second.future

    def optim_step(
        self, adam_params: types.OptimParams, *, timeout: Optional[float] = None
    ) -> types.OptimStepResponse:
        """Update the weights by the accumulated gradients, and clear those. POST /api/v1/optim_step.

        DimuonParams are for a model made with ``optimizer=DimuonOptimizerConfig()``. Errors as
        :meth:`forward_backward`.
        """
        return self._wait(lambda: self.submit_optim_step(adam_params), timeout)

    def submit_optim_step(self, adam_params: types.OptimParams) -> Future[types.OptimStepResponse]:
        """:meth:`optim_step`, without waiting."""
        future, job = self._optim_step(adam_params, None)
        self._enqueue([future], job)
        return future

    def train_step(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        adam_params: types.OptimParams,
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
        adam_params: types.OptimParams,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> tuple[Future[types.ForwardBackwardOutput], Future[types.OptimStepResponse]]:
        """:meth:`train_step`, without waiting: the futures of the backward pass and of the optimizer step."""
        check_optimizer(adam_params)
        batch, send = self._batch("forward_backward", data, loss_fn, loss_fn_config)
        step, step_job = self._optim_step(adam_params, batch)
        self._enqueue([batch.future, step], send, step_job)
        return batch.future, step

    # Asking

    def get_info(self, *, timeout: Optional[float] = None) -> types.GetInfoResponse:
        """The model's base, adapter and tokenizer. POST /api/v1/get_info; takes no turn in the lane."""
        return self._run("get_info", self._get_info, timeout)

    def submit_get_info(self) -> Future[types.GetInfoResponse]:
        """:meth:`get_info`, without waiting."""
        return self._submit("get_info", self._get_info)

    def _get_info(self, call: CallState, deadline: Optional[float]) -> types.GetInfoResponse:
        info: types.GetInfoResponse = self._session.call(
            Request("get_info", {"model_id": self.model_id}, call=call, deadline=deadline)
        )
        return info

    def get_tokenizer(self, *, timeout: Optional[float] = None) -> Any:
        """The model's tokenizer, which the server names; see :mod:`tinkex_sync.tokenizers`. POST /api/v1/get_info.

        Args:
            timeout: Seconds for the server's answer; loading from the Hugging Face hub has timeouts of its own.

        Raises:
            MissingExtraError: a library is missing: ``pip install "tinkex-sync[tokenizers]"``.
            TokenizerError: it cannot be found or read; the text says what to do.
        """
        return self._run("get_tokenizer", self._named_tokenizer, timeout)

    def submit_get_tokenizer(self) -> Future[Any]:
        """:meth:`get_tokenizer`, without waiting."""
        return self._submit("get_tokenizer", self._named_tokenizer)

    def _named_tokenizer(self, call: CallState, deadline: Optional[float]) -> Any:
        if self._tokenizer is None:
            model = self._get_info(call, deadline).model_data
            self._tokenizer = load_tokenizer(choose_tokenizer(model.model_name, model.tokenizer_id).id)
        return self._tokenizer
