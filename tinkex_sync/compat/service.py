"""The official ServiceClient."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from .. import clients as native_clients
from ..http.retry import RetryConfig
from .calls import async_result_method, result_method
from .futures import APIFuture, completed, result_in_loop
from .holder import Holder, QueueStateHooks, TelemetryProvider
from .rest import RestClient
from .sampling import SamplingClient
from .settings import service_arguments
from .training import TrainingClient

__all__ = ["ServiceClient"]

_Native = native_clients.ServiceClient
_OUTCOMES = ("success", "errored", "interrupted")


def _training_client(service: ServiceClient, native: native_clients.TrainingClient) -> TrainingClient:
    return TrainingClient.from_native(service.holder, native)


class ServiceClient(TelemetryProvider):
    """Opens a session and makes the other clients.

    Args:
        user_metadata: Labels that the server stores with the session.
        kwargs: ``api_key``, ``base_url``, ``timeout`` (of each HTTP request: seconds, a Timeout or None),
            ``max_retries`` and ``default_headers``; also ``plugins`` and the fields of ``tinkex_sync.Config``.

    Raises:
        TypeError, ValueError: An argument is invalid or not supported, such as ``http_client``.
        TinkerError: A setting is missing, or the server rejected the session.
    """

    def __init__(self, user_metadata: Optional[Mapping[str, Any]] = None, **kwargs: Any) -> None:
        self.native = native = _Native(user_metadata, **service_arguments(kwargs))
        hooks = None
        rows = [row for row in native.plugins.report() if row.name == "queue_log"]
        if rows and rows[0].status == "active":
            # The replacement calls the clients first, which may override the logging.
            native.plugins.unregister("queue_log")
            hooks = QueueStateHooks(native.config.clock)
            native.plugins.register(hooks, "queue_state_hooks")
        self._holder = Holder(native.session, hooks)

    def close(self, status: str = "success", detail: Optional[str] = None) -> APIFuture[None]:
        """End the session. In 0.7.0 only ``holder.close()`` does this.

        Args:
            status: "success", "errored" or "interrupted"; sent to servers of 0.38.0.
            detail: Text of the error, sent with it.
        """
        if status not in _OUTCOMES:
            raise ValueError(f"status must be 'success', 'errored' or 'interrupted', not {status!r}")
        self.native.session.close(status, detail)
        return completed(None)

    def copy_weights(
        self, path: str, *, ttl_seconds: Optional[int] = None, weights_access_token: Optional[str] = None
    ) -> APIFuture[str]:
        """Copy a checkpoint to a training run of this session. The result is the path of the copy."""
        copying = native_clients.RestClient(self.holder.session).submit_copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )
        return APIFuture(copying)

    get_server_capabilities = result_method(_Native.submit_get_server_capabilities)
    get_server_capabilities_async = async_result_method(_Native.submit_get_server_capabilities)

    create_lora_training_client = result_method(_Native.submit_create_lora_training_client, _training_client)
    create_lora_training_client_async = async_result_method(
        _Native.submit_create_lora_training_client, _training_client
    )
    create_training_client_from_state = result_method(
        _Native.submit_create_training_client_from_state, _training_client
    )
    create_training_client_from_state_async = async_result_method(
        _Native.submit_create_training_client_from_state, _training_client
    )
    create_training_client_from_state_with_optimizer = result_method(
        _Native.submit_create_training_client_from_state_with_optimizer, _training_client
    )
    create_training_client_from_state_with_optimizer_async = async_result_method(
        _Native.submit_create_training_client_from_state_with_optimizer, _training_client
    )

    def create_sampling_client(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Return a client that samples from saved weights or from a base model."""
        return self._open_sampling_client(model_path, base_model, retry_config, record_stability_info).result()

    async def create_sampling_client_async(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Return a client that samples, as :meth:`create_sampling_client`, without blocking the event loop."""
        opening = self._open_sampling_client(model_path, base_model, retry_config, record_stability_info)
        return await result_in_loop(opening.future())

    def _open_sampling_client(
        self,
        model_path: Optional[str],
        base_model: Optional[str],
        retry_config: Optional[RetryConfig],
        record_stability_info: bool,
    ) -> APIFuture[SamplingClient]:
        return SamplingClient.create(
            self.holder,
            model_path=model_path,
            base_model=base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    def create_rest_client(self) -> RestClient:
        """Return a client for training runs, checkpoints, sessions and samplers. Sends no request."""
        return RestClient(self.holder)
