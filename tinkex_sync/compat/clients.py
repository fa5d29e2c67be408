"""The official clients' methods, each a renaming of a ``submit_*`` of ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
from typing import Any, Callable, Dict, Iterable, Literal, Optional

from .. import clients as core
from .. import types
from ..clients.sampling import open_sampling_client
from ..futures import Future
from ..http.retry import RetryConfig
from .absent import Explained
from .calls import awaited, awaited_promise, blocking, promised, submitted, warn_in_loop
from .futures import APIFuture, mapped, settled
from .holder import Holder, QueueStateObserver

__all__ = ["SamplingClient", "TrainingClient"]


Kind = Literal["snapshot", "inflight"]


def _logprobs(loss_type_input: Optional[str]) -> None:
    if loss_type_input not in (None, "logprobs"):
        raise ValueError(
            f"loss_type_input must be 'logprobs', which losses are given, not {loss_type_input!r}"
        )


class SamplingClient(QueueStateObserver, Explained):
    """Draws completions; made by the other clients, or from a session id."""

    def __init__(
        self,
        holder: Holder,
        *,
        sampling_session_id: str,
        retry_config: Optional[RetryConfig] = None,
    ) -> None:
        self._wrap(
            holder, core.SamplingClient(holder._session, sampling_session_id, retry_config=retry_config)
        )

    def _wrap(self, holder: Optional[Holder], client: core.SamplingClient) -> SamplingClient:
        self._holder, self._core = holder, client
        self._observe()
        return self

    @classmethod
    def _of(cls, holder: Optional[Holder], client: core.SamplingClient) -> SamplingClient:
        return cls.__new__(cls)._wrap(holder, client)

    def __getstate__(self) -> Dict[str, Any]:
        return {"core": self._core}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._holder, self._core = None, state["core"]

    sample = submitted(core.SamplingClient.submit_sample)
    sample_async = awaited(core.SamplingClient.submit_sample)
    compute_logprobs = submitted(core.SamplingClient.submit_compute_logprobs)
    compute_logprobs_async = awaited(core.SamplingClient.submit_compute_logprobs)
    get_base_model = blocking(core.SamplingClient.submit_get_base_model)
    get_base_model_async = awaited(core.SamplingClient.submit_get_base_model)
    get_tokenizer = blocking(core.SamplingClient.submit_get_tokenizer)

    @staticmethod
    def create(
        holder: Holder,
        *,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        sampling_session_id: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> APIFuture[SamplingClient]:
        """Open a sampling session, or join the one that is named."""
        if sampling_session_id is not None:
            ready: concurrent.futures.Future[SamplingClient] = concurrent.futures.Future()
            ready.set_result(
                SamplingClient(holder, sampling_session_id=sampling_session_id, retry_config=retry_config)
            )
            return APIFuture(ready)
        session = holder._session
        opened = core.RestClient(session)._submit(
            "create_sampling_client",
            lambda call, deadline: open_sampling_client(
                session,
                model_path=model_path,
                base_model=base_model,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
                call=call,
                deadline=deadline,
            ),
        )
        return APIFuture(mapped(opened, lambda client: SamplingClient._of(holder, client)))


class TrainingClient(QueueStateObserver, Explained):
    """Trains one model; made by :class:`ServiceClient`."""

    def __init__(self, holder: Holder, model_seq_id: int, model_id: str) -> None:
        self._wrap(holder, core.TrainingClient(holder._session, model_id))

    def _wrap(self, holder: Holder, client: core.TrainingClient) -> TrainingClient:
        self._holder, self._core = holder, client
        self._observe()
        return self

    @classmethod
    def _of(cls, holder: Holder, client: core.TrainingClient) -> TrainingClient:
        return cls.__new__(cls)._wrap(holder, client)

    @property
    def model_id(self) -> str:
        """The server's id of the model."""
        model_id: str = self._core.model_id
        return model_id

    def forward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Losses of a batch. No data: an empty result, and no request."""
        return self._batch(self._core.submit_forward, data, loss_fn, loss_fn_config)

    async def forward_async(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """:meth:`forward`; await what it gives."""
        return self.forward(data, loss_fn, loss_fn_config)

    def forward_backward(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Accumulate the gradients of a batch. No data: an empty result, and no request."""
        return self._batch(self._core.submit_forward_backward, data, loss_fn, loss_fn_config)

    async def forward_backward_async(
        self,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """:meth:`forward_backward`; await what it gives."""
        return self.forward_backward(data, loss_fn, loss_fn_config)

    @staticmethod
    def _batch(
        submit: Callable[..., Future[types.ForwardBackwardOutput]],
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]],
    ) -> APIFuture[types.ForwardBackwardOutput]:
        datums = list(data)
        if not datums:
            empty: concurrent.futures.Future[types.ForwardBackwardOutput] = concurrent.futures.Future()
            empty.set_result(
                types.ForwardBackwardOutput(loss_fn_output_type="", loss_fn_outputs=[], metrics={})
            )
            return APIFuture(empty)
        return APIFuture(submit(datums, loss_fn, loss_fn_config))

    def optim_step(
        self,
        adam_params: Optional[types.OptimParams] = None,
        *,
        optim_params: Optional[types.OptimParams] = None,
    ) -> APIFuture[types.OptimStepResponse]:
        """Update the weights with the gradients accumulated; the argument under either of its two names."""
        if (adam_params is None) == (optim_params is None):
            raise TypeError("optim_step() takes adam_params or optim_params, and one of the two")
        chosen = adam_params if optim_params is None else optim_params
        return APIFuture(self._core.submit_optim_step(chosen))

    async def optim_step_async(
        self,
        adam_params: Optional[types.OptimParams] = None,
        *,
        optim_params: Optional[types.OptimParams] = None,
    ) -> APIFuture[types.OptimStepResponse]:
        """:meth:`optim_step`; await what it gives."""
        return self.optim_step(adam_params, optim_params=optim_params)

    save_weights_external = promised(core.TrainingClient.submit_save_weights_external)
    save_weights_external_async = awaited_promise(core.TrainingClient.submit_save_weights_external)
    save_state = promised(core.TrainingClient.submit_save_state)
    save_state_async = awaited_promise(core.TrainingClient.submit_save_state)
    load_state = promised(core.TrainingClient.submit_load_state)
    load_state_async = awaited_promise(core.TrainingClient.submit_load_state)
    load_state_with_optimizer = promised(core.TrainingClient.submit_load_state_with_optimizer)
    load_state_with_optimizer_async = awaited_promise(core.TrainingClient.submit_load_state_with_optimizer)
    save_weights_for_sampler = promised(core.TrainingClient.submit_save_weights_for_sampler)
    save_weights_for_sampler_async = awaited_promise(core.TrainingClient.submit_save_weights_for_sampler)
    get_info = blocking(core.TrainingClient.submit_get_info)
    get_info_async = awaited(core.TrainingClient.submit_get_info)

    def forward_backward_custom(
        self,
        data: Iterable[types.Datum],
        loss_fn: Callable[..., Any],
        *,
        loss_type_input: Optional[Literal["logprobs"]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """By a loss of your own, called here on logprobs; waits for the forward pass."""
        warn_in_loop("forward_backward_custom")
        _logprobs(loss_type_input)
        return APIFuture(self._core.submit_forward_backward_custom(data, loss_fn))

    async def forward_backward_custom_async(
        self,
        data: Iterable[types.Datum],
        loss_fn: Callable[..., Any],
        *,
        loss_type_input: Optional[Literal["logprobs"]] = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """:meth:`forward_backward_custom`; the loss is called in a thread, so the loop goes on."""
        _logprobs(loss_type_input)
        submit = functools.partial(self._core.submit_forward_backward_custom, data, loss_fn)
        run = contextvars.copy_context().run
        return APIFuture(await asyncio.get_running_loop().run_in_executor(None, run, submit))

    def get_tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._core.get_tokenizer()

    def _sampling(self, future: Future[core.SamplingClient]) -> concurrent.futures.Future[SamplingClient]:
        holder = self.holder
        return mapped(future, lambda client: SamplingClient._of(holder, client))

    def save_weights_and_get_sampling_client_submit(
        self, retry_config: Optional[RetryConfig] = None
    ) -> APIFuture[SamplingClient]:
        """Save the weights for this session alone, and sample from them."""
        return APIFuture(
            self._sampling(self._core.submit_save_weights_and_get_sampling_client(None, retry_config))
        )

    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        kind: Optional[Kind] = None,
    ) -> SamplingClient:
        """Save the weights, under ``name`` if given, and sample from them."""
        return self._saved(name, retry_config, record_stability_info, kind).result()

    async def save_weights_and_get_sampling_client_async(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        kind: Optional[Kind] = None,
    ) -> SamplingClient:
        """:meth:`save_weights_and_get_sampling_client`, without blocking the loop."""
        return await settled(self._saved(name, retry_config, record_stability_info, kind))

    def _saved(
        self,
        name: Optional[str],
        retry_config: Optional[RetryConfig],
        record_stability_info: bool,
        kind: Optional[Kind],
    ) -> concurrent.futures.Future[SamplingClient]:
        # Saves under a name are snapshots, and that they are is said nowhere in the body.
        asked_for = None if name is not None and kind == "snapshot" else kind
        submit = self._core.submit_save_weights_and_get_sampling_client
        return self._sampling(submit(name, retry_config, asked_for, record_stability_info))

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Sample from saved weights."""
        submit = self._core.submit_create_sampling_client
        return self._sampling(submit(model_path, retry_config, record_stability_info)).result()

    async def create_sampling_client_async(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """:meth:`create_sampling_client`, without blocking the loop."""
        submit = self._core.submit_create_sampling_client
        return await settled(self._sampling(submit(model_path, retry_config, record_stability_info)))
