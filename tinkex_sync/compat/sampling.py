"""The official SamplingClient."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Optional

from .. import clients as native_clients
from ..clients.base import CallOperation
from ..clients.sampling import NewSampler
from ..http.retry import RetryConfig
from .calls import async_result_method, future_method, result_method
from .futures import APIFuture, completed, map_future
from .holder import Holder, QueueStateObserver

__all__ = ["SamplingClient"]

_Native = native_clients.SamplingClient


class SamplingClient(QueueStateObserver):
    """Samples completions. The other clients make it; the constructor joins an existing sampling session."""

    def __init__(self, holder: Holder, *, sampling_session_id: str, retry_config: Optional[RetryConfig] = None) -> None:
        self._adopt(holder, _Native(holder.session, sampling_session_id, retry_config=retry_config))

    @classmethod
    def from_native(cls, holder: Holder, native: native_clients.SamplingClient) -> SamplingClient:
        """Return the client over a client of tinkex_sync."""
        return cls.__new__(cls)._adopt(holder, native)

    def _adopt(self, holder: Holder, native: native_clients.SamplingClient) -> SamplingClient:
        self._holder: Optional[Holder] = holder
        self.native: native_clients.SamplingClient = native
        self._observe()
        return self

    def __getstate__(self) -> Dict[str, Any]:
        return {"native": self.native}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._holder, self.native = None, state["native"]

    @property
    def sampling_session_id(self) -> str:
        """The server's id of the sampling session."""
        return self.native.sampling_session_id

    # Scripts read this private name of the official class.
    _sampling_session_id = sampling_session_id

    sample = future_method(_Native.submit_sample)
    sample_async = async_result_method(_Native.submit_sample)
    compute_logprobs = future_method(_Native.submit_compute_logprobs)
    compute_logprobs_async = async_result_method(_Native.submit_compute_logprobs)
    get_base_model = result_method(_Native.submit_get_base_model)
    get_base_model_async = async_result_method(_Native.submit_get_base_model)
    get_tokenizer = result_method(_Native.submit_get_tokenizer)

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
        """Open a sampling session, or join the one with the given id."""
        if sampling_session_id is not None:
            return completed(SamplingClient(holder, sampling_session_id=sampling_session_id, retry_config=retry_config))
        sampler = NewSampler(model_path, base_model, retry_config, record_stability_info)
        client = native_clients.Client(holder.session, holder.session.source)
        opening = CallOperation(client, "create_sampling_client", partial(sampler.open, holder.session)).submit()
        return APIFuture(map_future(opening, lambda native: SamplingClient.from_native(holder, native)))
