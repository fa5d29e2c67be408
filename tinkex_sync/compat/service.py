"""The official ServiceClient over ours."""

from __future__ import annotations

import concurrent.futures
from typing import Any, Mapping, Optional

from .. import clients as core
from ..http.retry import RetryConfig
from .absent import Explained
from .calls import awaited, blocking
from .clients import SamplingClient, TrainingClient
from .futures import APIFuture, settled
from .holder import Holder, QueueStateHooks, TelemetryProvider
from .rest import RestClient
from .settings import settings

__all__ = ["ServiceClient"]


def _training(service: ServiceClient, client: core.TrainingClient) -> TrainingClient:
    return TrainingClient._of(service.holder, client)


class ServiceClient(TelemetryProvider, Explained):
    """Opens a session and makes the other clients.

    Args:
        user_metadata: Labels stored with the session.
        kwargs: ``api_key``, ``base_url``, ``timeout`` (of each HTTP request: a number, a Timeout or None),
            ``max_retries``, ``default_headers``; also ``plugins`` and whatever ``tinkex_sync.Config`` has.

    Raises:
        TypeError, ValueError: an argument that cannot be honoured, such as ``http_client``.
        TinkerError: a setting is missing or the server refuses us.
    """

    def __init__(self, user_metadata: Optional[Mapping[str, Any]] = None, **kwargs: Any) -> None:
        self._core = service = core.ServiceClient(user_metadata, **settings(kwargs))
        hooks = None
        rows = [row for row in service.plugins.report() if row.name == "queue_log"]
        if rows and rows[0].status == "active":
            # Its place is taken by one that asks the clients first.
            service.plugins.unregister("queue_log")
            hooks = QueueStateHooks(service.config.clock)
            service.plugins.register(hooks, "queue_state_hooks")
        self._holder = Holder(service._session, hooks)

    def close(self, status: str = "success", detail: Optional[str] = None) -> APIFuture[None]:
        """End the session, and tell a server that wants to know how it went; in 0.7.0 only ``holder.close()`` does.

        Args:
            status: "success", "errored" or "interrupted".
        """
        if status not in ("success", "errored", "interrupted"):
            raise ValueError(f"status must be 'success', 'errored' or 'interrupted', not {status!r}")
        self._core._session.close(status, detail)
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        done.set_result(None)
        return APIFuture(done)

    def copy_weights(
        self, path: str, *, ttl_seconds: Optional[int] = None, weights_access_token: Optional[str] = None
    ) -> APIFuture[str]:
        """Copy a checkpoint into a run of this session; gives the copy's path."""
        copying = core.RestClient(self.holder._session).submit_copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )
        return APIFuture(copying)

    get_server_capabilities = blocking(core.ServiceClient.submit_get_server_capabilities)
    get_server_capabilities_async = awaited(core.ServiceClient.submit_get_server_capabilities)

    create_lora_training_client = blocking(core.ServiceClient.submit_create_lora_training_client, _training)
    create_lora_training_client_async = awaited(
        core.ServiceClient.submit_create_lora_training_client, _training
    )
    create_training_client_from_state = blocking(
        core.ServiceClient.submit_create_training_client_from_state, _training
    )
    create_training_client_from_state_async = awaited(
        core.ServiceClient.submit_create_training_client_from_state, _training
    )
    create_training_client_from_state_with_optimizer = blocking(
        core.ServiceClient.submit_create_training_client_from_state_with_optimizer, _training
    )
    create_training_client_from_state_with_optimizer_async = awaited(
        core.ServiceClient.submit_create_training_client_from_state_with_optimizer, _training
    )

    def create_sampling_client(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Sample from saved weights or a base model."""
        return SamplingClient.create(
            self.holder,
            model_path=model_path,
            base_model=base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        ).result()

    async def create_sampling_client_async(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """:meth:`create_sampling_client`, without blocking the loop."""
        return await settled(
            SamplingClient.create(
                self.holder,
                model_path=model_path,
                base_model=base_model,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            ).future()
        )

    def create_rest_client(self) -> RestClient:
        """For runs, checkpoints, sessions and samplers; makes no request."""
        return RestClient(self.holder)
