"""What a server of today's protocol says about itself before a session is made."""

from dataclasses import dataclass
from typing import Optional

from .wire import Wire

__all__ = ["AuthTokenResponse", "DynamicConfigResponse", "ServerConfigResponse"]


@dataclass(frozen=True, repr=False)
class ServerConfigResponse(Wire):
    """Reply of ``POST /api/v1/client/config``. None: the server does not say. Sizes are bytes."""

    #: Requests carry a token that is exchanged for the key at ``auth/token``.
    pjwt_auth_enabled: Optional[bool] = None
    #: "credential_cmd": the exchange wants what the user's credential command prints.
    credential_default_source: Optional[str] = None
    #: Chunks of one batch may arrive in any order; the server puts them in order by number.
    parallel_fwdbwd_chunks: Optional[bool] = None
    #: Bodies of forward_backward may be compressed by zstd.
    proto_compress_fwdbwd: Optional[bool] = None
    #: Most datums of one forward_backward request, and most estimated bytes.
    fwdbwd_max_chunk_len: Optional[int] = None
    fwdbwd_max_chunk_bytes_count: Optional[int] = None
    #: Estimated bytes of training requests on their way at once.
    fwdbwd_dispatch_bytes_semaphore_size: Optional[int] = None
    #: Estimated bytes of samples being dispatched at once.
    sample_dispatch_bytes_semaphore_size: Optional[int] = None
    #: Announced bytes of results being read at once.
    inflight_response_bytes_semaphore_size: Optional[int] = None
    #: Samples in progress at once, from dispatch to result.
    sample_max_concurrent_requests: Optional[int] = None
    sample_no_retries: Optional[bool] = None
    sample_enable_stuck_detection: Optional[bool] = None
    #: One poll for all samples of a sampling session, at ``retrieve_futures``.
    sample_use_retrieve_futures: Optional[bool] = None
    #: Copies of a sampling client ask the server for a number of their own.
    sample_join_sampling_session: Optional[bool] = None
    custom_loss_server_side: Optional[bool] = None
    #: A ``load_weights`` may make its model.
    create_model_via_load_weights: Optional[bool] = None
    #: How long an unpaid account is waited for, in seconds.
    billing_exception_max_pause_duration_sec: Optional[int] = None


@dataclass(frozen=True, repr=False)
class DynamicConfigResponse(Wire):
    """Reply of ``POST /api/v1/client/dynamic_config``: what may change while a client runs."""

    #: Seconds until it should be asked for again; at least 10.
    refresh_interval_sec: int = 300
    #: A sample that nobody waits for any more may be withdrawn on the server.
    sample_cancel_enabled: bool = False
    #: Withdrawals sent at once.
    sample_cancel_max_batch_size: int = 64


@dataclass(frozen=True)
class AuthTokenResponse(Wire):
    """Reply of ``POST /api/v1/auth/token``: a secret that stands in for the key for a while."""

    jwt: str

    def __repr__(self) -> str:
        return "AuthTokenResponse(jwt=...)"
