"""The official TrainingClient."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
from typing import Any, Callable, Dict, Iterable, Literal, Optional

from .. import clients as native_clients
from .. import types
from ..futures import Future
from ..http.retry import RetryConfig
from ..training.batch import datum_list
from .calls import api_future_method, async_api_future_method, async_result_method, result_method, warn_in_loop
from .futures import APIFuture, completed, map_future, result_in_loop
from .holder import Holder, QueueStateObserver
from .sampling import SamplingClient

__all__ = ["TrainingClient"]

_Native = native_clients.TrainingClient
_Kind = Literal["snapshot", "inflight"]


def _check_loss_input(loss_type_input: Optional[str]) -> None:
    if loss_type_input not in (None, "logprobs"):
        raise ValueError(f"loss_type_input must be 'logprobs' or None, not {loss_type_input!r}")


class TrainingClient(QueueStateObserver):
    """Trains one model. :class:`ServiceClient` makes it."""

    def __init__(self, holder: Holder, model_seq_id: int, model_id: str) -> None:
        self._adopt(holder, _Native(holder.session, model_id))

    @classmethod
    def from_native(cls, holder: Holder, native: native_clients.TrainingClient) -> TrainingClient:
        """Return the client over a client of tinkex_sync."""
        return cls.__new__(cls)._adopt(holder, native)

    def _adopt(self, holder: Holder, native: native_clients.TrainingClient) -> TrainingClient:
        self._holder: Optional[Holder] = holder
        self.native: native_clients.TrainingClient = native
        self._observe()
        return self

    @property
    def model_id(self) -> str:
        """The server's id of the model."""
        return self.native.model_id

    def forward(
        self, data: Iterable[types.Datum], loss_fn: types.LossFnType, loss_fn_config: Optional[Dict[str, float]] = None
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Compute the losses of a batch. Without data, the result is empty and no request is sent."""
        return self._batch(self.native.submit_forward, data, loss_fn, loss_fn_config)

    async def forward_async(
        self, data: Iterable[types.Datum], loss_fn: types.LossFnType, loss_fn_config: Optional[Dict[str, float]] = None
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Submit as :meth:`forward`; awaiting the future that this returns gives the result."""
        return self.forward(data, loss_fn, loss_fn_config)

    def forward_backward(
        self, data: Iterable[types.Datum], loss_fn: types.LossFnType, loss_fn_config: Optional[Dict[str, float]] = None
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Accumulate the gradients of a batch. Without data, the result is empty and no request is sent."""
        return self._batch(self.native.submit_forward_backward, data, loss_fn, loss_fn_config)

    async def forward_backward_async(
        self, data: Iterable[types.Datum], loss_fn: types.LossFnType, loss_fn_config: Optional[Dict[str, float]] = None
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Submit as :meth:`forward_backward`; awaiting the future that this returns gives the result."""
        return self.forward_backward(data, loss_fn, loss_fn_config)

    @staticmethod
    def _batch(
        submit: Callable[..., Future[types.ForwardBackwardOutput]],
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]],
    ) -> APIFuture[types.ForwardBackwardOutput]:
        datums = datum_list(data)
        if not datums:
            return completed(types.ForwardBackwardOutput(loss_fn_output_type="", loss_fn_outputs=[], metrics={}))
        return APIFuture(submit(datums, loss_fn, loss_fn_config))

    def optim_step(
        self, adam_params: Optional[types.OptimParams] = None, *, optim_params: Optional[types.OptimParams] = None
    ) -> APIFuture[types.OptimStepResponse]:
        """Update the weights with the accumulated gradients; ``adam_params`` and ``optim_params`` are the same."""
        if (adam_params is None) == (optim_params is None):
            raise TypeError("optim_step() takes one of adam_params or optim_params")
        params = adam_params if optim_params is None else optim_params
        assert params is not None
        return APIFuture(self.native.submit_optim_step(params))

    async def optim_step_async(
        self, adam_params: Optional[types.OptimParams] = None, *, optim_params: Optional[types.OptimParams] = None
    ) -> APIFuture[types.OptimStepResponse]:
        """Submit as :meth:`optim_step`; awaiting the future that this returns gives the result."""
        return self.optim_step(adam_params, optim_params=optim_params)

    save_weights_external = api_future_method(_Native.submit_save_weights_external)
    save_weights_external_async = async_api_future_method(_Native.submit_save_weights_external)
    save_state = api_future_method(_Native.submit_save_state)
    save_state_async = async_api_future_method(_Native.submit_save_state)
    load_state = api_future_method(_Native.submit_load_state)
    load_state_async = async_api_future_method(_Native.submit_load_state)
    load_state_with_optimizer = api_future_method(_Native.submit_load_state_with_optimizer)
    load_state_with_optimizer_async = async_api_future_method(_Native.submit_load_state_with_optimizer)
    save_weights_for_sampler = api_future_method(_Native.submit_save_weights_for_sampler)
    save_weights_for_sampler_async = async_api_future_method(_Native.submit_save_weights_for_sampler)
    get_info = result_method(_Native.submit_get_info)
    get_info_async = async_result_method(_Native.submit_get_info)

    def forward_backward_custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: Callable[..., Any],
        *,
        loss_type_input: Optional[Literal["logprobs"]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Accumulate gradients of a loss function of the user, which this thread calls after the forward pass."""
        warn_in_loop("forward_backward_custom")
        _check_loss_input(loss_type_input)
        return APIFuture(self.native.submit_forward_backward_custom(data, loss_fn))

    async def forward_backward_custom_async(
        self,
        data: Iterable[types.Datum],
        loss_fn: Callable[..., Any],
        *,
        loss_type_input: Optional[Literal["logprobs"]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Submit as :meth:`forward_backward_custom`; a thread of the event loop's executor calls the loss function."""
        _check_loss_input(loss_type_input)
        submit = functools.partial(self.native.submit_forward_backward_custom, data, loss_fn)
        run = contextvars.copy_context().run
        return APIFuture(await asyncio.get_running_loop().run_in_executor(None, run, submit))

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer."""
        return self.native.get_tokenizer()

    def _sampling(self, future: Future[native_clients.SamplingClient]) -> concurrent.futures.Future[SamplingClient]:
        holder = self.holder
        return map_future(future, lambda native: SamplingClient.from_native(holder, native))

    def save_weights_and_get_sampling_client_submit(
        self, retry_config: Optional[RetryConfig] = None
    ) -> APIFuture[SamplingClient]:
        """Save the weights for this session only, and return the future of a client that samples from them."""
        return APIFuture(self._sampling(self.native.submit_save_weights_and_get_sampling_client(None, retry_config)))

    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        kind: Optional[_Kind] = None,
    ) -> SamplingClient:
        """Save the weights, with a name if given, and return a client that samples from them."""
        return self._saved(name, retry_config, record_stability_info, kind).result()

    async def save_weights_and_get_sampling_client_async(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        kind: Optional[_Kind] = None,
    ) -> SamplingClient:
        """Save and return as :meth:`save_weights_and_get_sampling_client`, without blocking the event loop."""
        return await result_in_loop(self._saved(name, retry_config, record_stability_info, kind))

    def _saved(
        self,
        name: Optional[str],
        retry_config: Optional[RetryConfig],
        record_stability_info: bool,
        kind: Optional[_Kind],
    ) -> concurrent.futures.Future[SamplingClient]:
        # A save with a name is a snapshot; its request body has no field for the kind.
        sent_kind = None if name is not None and kind == "snapshot" else kind
        submit = self.native.submit_save_weights_and_get_sampling_client
        return self._sampling(submit(name, retry_config, sent_kind, record_stability_info))

    def create_sampling_client(
        self, model_path: str, retry_config: Optional[RetryConfig] = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client that samples from saved weights."""
        submit = self.native.submit_create_sampling_client
        return self._sampling(submit(model_path, retry_config, record_stability_info)).result()

    async def create_sampling_client_async(
        self, model_path: str, retry_config: Optional[RetryConfig] = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client as :meth:`create_sampling_client`, without blocking the event loop."""
        submit = self.native.submit_create_sampling_client
        return await result_in_loop(self._sampling(submit(model_path, retry_config, record_stability_info)))
