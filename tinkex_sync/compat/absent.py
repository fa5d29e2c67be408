"""Names of the newest official package that are not here, and why."""

from __future__ import annotations

from typing import Any, Dict, Tuple

__all__ = ["Explained", "absent", "absent_type", "reason"]

#: Why, and for which names: of the package, of its types, and of its clients' methods.
_ABSENT: Tuple[Tuple[str, str], ...] = (
    (
        "custom losses are computed here, by forward_backward_custom, and not traced for the server",
        "LossHandle PerDatumLossFn create_custom_loss CreateCustomLossRequest CreateCustomLossResponse CustomLossGraph"
        " CustomLossInput CustomLossInputRank CustomLossNode",
    ),
    (
        "accounts, audits and bills are looked after on the service's own pages",
        "AdminClient whoami WhoamiResponse get_audit_log get_audit_log_async AuditLogEntry AuditLogResponse"
        " get_billing_usage get_billing_usage_async BillingEventInfo BillingUsageEvent BillingUsageResponse"
        " BillingUsageSession CheckpointBillingEvent GetBillingUsageRequest SamplingPrefillBillingEvent"
        " SamplingSampleBillingEvent StorageBillingEvent TrainingBillingEvent get_current_checkpoint_storage_usage"
        " get_current_checkpoint_storage_usage_async CurrentCheckpointStorageUsageItem"
        " CurrentCheckpointStorageUsageResponse GetCurrentCheckpointStorageUsageRequest",
    ),
    (
        "sessions are listed by list_sessions and get_session; searching them and exporting traces is not built",
        "search_sessions export_session_trace export_session_trace_async AccessibleSearchOwner OwnSearchOwner"
        " UserSearchOwner SearchOwner SessionSearchCursor SessionSearchRequest SessionSearchResponse SessionSummary"
        " SessionStatus SessionStatusQuery SessionActive SessionCancelled SessionFailed SessionFailedReason"
        " SessionFailedRequestReason SessionFailedSamplingSessionReason SessionFailedTrainingRunReason"
        " ActiveSessionStatusQuery CancelledSessionStatusQuery ClientFinishedSessionStatusQuery"
        " ClientSessionFinished FailedSessionStatusQuery",
    ),
    (
        "provenance spans and dmel chunks have no wire form of level 0.7.0, so no datum can carry them",
        "DmelChunk PromptProvenanceSpan SampledProvenanceSpan ProvenanceSpans",
    ),
    (
        "how a session ended is told by ServiceClient.close(status, detail)",
        "ClientSessionFinishErrored ClientSessionFinishInterrupted ClientSessionFinishReason"
        " ClientSessionFinishReasonType ClientSessionFinishSuccess",
    ),
    (
        "the clients send this request by themselves",
        "ClientConfigRequest CopyWeightsRequest JoinSamplingSessionRequest SaveWeightsExternalRequest"
        " SaveWeightsExternalResponseInternal FutureCompletion FutureFailed FutureFinished FuturesRetrieveRequest"
        " FuturesRetrieveResponse SamplingSessionFuturesTarget",
    ),
    (
        "a sampling client can be pickled, and continues in another process as what was unpickled",
        "get_sampler_handle from_sampler_handle",
    ),
    ("the pages of the hosted service are not known here", "get_console_url"),
    ("raw responses are internal to the official client", "APIResponse AsyncAPIResponse"),
    ("save_weights_and_get_sampling_client gives the client itself", "BackcompatSamplingClientFuture"),
    ("create_training_client_from_state gives the client itself", "BackcompatTrainingClientFuture"),
    ("nothing here warns with it", "ExperimentalWarning"),
    ("keys and credential commands are settings: api_key, TINKER_API_KEY, TINKER_CREDENTIAL_CMD", "auth"),
    ("its messages are built when they are needed: tinkex_sync.protobuf", "proto"),
    ("the low-level client is not here", "resources"),
)
_REASONS: Dict[str, str] = {name: why for why, names in _ABSENT for name in names.split()}


def reason(name: str) -> str:
    """Why there is no such name; "" for one the official package has not either."""
    return _REASONS.get(name, "")


def _missing(owner: str, name: str) -> AttributeError:
    why = reason(name)
    told = f"; the official package has it, and this one has not: {why}" if why else ""
    return AttributeError(f"{owner} has no attribute {name!r}{told}")


def absent(name: str) -> Any:
    """``__getattr__`` of the package: raises AttributeError, and says why a name of the official one is not here."""
    raise _missing("module 'tinkex_sync.compat'", name)


def absent_type(name: str) -> Any:
    """:func:`absent`, of the types."""
    raise _missing("module 'tinkex_sync.compat.types'", name)


class Explained:
    """A client whose missing methods are explained."""

    def __getattr__(self, name: str) -> Any:
        raise _missing(repr(type(self).__name__), name)
