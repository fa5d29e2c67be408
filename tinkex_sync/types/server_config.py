"""The configuration that a server of protocol 0.38.0 returns before a session is created, and bearer tokens."""

from dataclasses import field
from typing import Optional

from .wire import Wire

__all__ = [
    "AuthTokenRequest", "AuthTokenResponse", "DynamicConfigRequest", "DynamicConfigResponse",
    "ServerConfigRequest", "ServerConfigResponse",
]  # fmt: skip


class ServerConfigRequest(Wire):
    """Body of ``POST /api/v1/client/config`` (0.38.0)."""

    sdk_version: str


class ServerConfigResponse(Wire):
    """Response of ``POST /api/v1/client/config``. A field is None if the server does not send it. Sizes are bytes."""

    #: Requests carry a bearer token that ``auth/token`` returns in exchange for the API key.
    pjwt_auth_enabled: Optional[bool] = None
    #: "credential_cmd" if ``auth/token`` requires the output of the user's credential command.
    credential_default_source: Optional[str] = None
    #: Chunks of one batch may arrive in any order; the server orders them by sequence number.
    parallel_fwdbwd_chunks: Optional[bool] = None
    #: Bodies of forward_backward may be compressed by zstd.
    proto_compress_fwdbwd: Optional[bool] = None
    #: Limits of one forward_backward request: number of datums, and estimated bytes.
    fwdbwd_max_chunk_len: Optional[int] = None
    fwdbwd_max_chunk_bytes_count: Optional[int] = None
    #: Estimated bytes of training requests in flight.
    fwdbwd_dispatch_bytes_semaphore_size: Optional[int] = None
    #: Estimated bytes of samples being dispatched.
    sample_dispatch_bytes_semaphore_size: Optional[int] = None
    #: Bytes of results being downloaded, as their metadata states them.
    inflight_response_bytes_semaphore_size: Optional[int] = None
    #: Samples in progress, from dispatch to result.
    sample_max_concurrent_requests: Optional[int] = None
    sample_no_retries: Optional[bool] = None
    sample_enable_stuck_detection: Optional[bool] = None
    #: One poll at ``retrieve_futures`` serves all samples of a sampling session.
    sample_use_retrieve_futures: Optional[bool] = None
    #: Copies of a sampling client get a number of their own from ``join_sampling_session``.
    sample_join_sampling_session: Optional[bool] = None
    custom_loss_server_side: Optional[bool] = None
    #: ``load_weights`` may create its model.
    create_model_via_load_weights: Optional[bool] = None
    #: Seconds for which calls wait after a 402.
    billing_exception_max_pause_duration_sec: Optional[int] = None


class DynamicConfigRequest(Wire):
    """Body of ``POST /api/v1/client/dynamic_config`` (0.38.0)."""

    sdk_version: str


class DynamicConfigResponse(Wire):
    """Response of ``POST /api/v1/client/dynamic_config``: settings that may change while a client runs."""

    #: Seconds until the next request; at least 10.
    refresh_interval_sec: int = 300
    #: The server accepts ``cancel_future`` for samples whose result is no longer needed.
    sample_cancel_enabled: bool = False
    #: Largest number of concurrent ``cancel_future`` requests.
    sample_cancel_max_batch_size: int = 64


class AuthTokenRequest(Wire):
    """Body of ``POST /api/v1/auth/token`` (0.38.0): an empty object; the API key is in the headers."""


class AuthTokenResponse(Wire):
    """Response of ``POST /api/v1/auth/token``: a short-lived secret that replaces the API key."""

    jwt: str = field(repr=False)
