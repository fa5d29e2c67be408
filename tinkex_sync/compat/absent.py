"""Names of the official package of 0.38.0 that compat does not have, with the reasons."""

from __future__ import annotations

from typing import Any, Dict, NoReturn, Tuple

__all__ = ["REASONS", "AbsentMember", "raise_absent", "reason"]

#: Pairs of a reason and its names: of the package, of its types and of its clients' methods.
_GROUPS: Tuple[Tuple[str, str], ...] = (
    (
        "forward_backward_custom computes custom losses in this process and does not trace them for the server",
        "LossHandle PerDatumLossFn create_custom_loss CreateCustomLossRequest CreateCustomLossResponse CustomLossGraph"
        " CustomLossInput CustomLossInputRank CustomLossNode",
    ),
    (
        "accounts, audits and bills are managed on the web pages of the service",
        "AdminClient whoami WhoamiResponse get_audit_log get_audit_log_async AuditLogEntry AuditLogResponse"
        " get_billing_usage get_billing_usage_async BillingEventInfo BillingUsageEvent BillingUsageResponse"
        " BillingUsageSession CheckpointBillingEvent GetBillingUsageRequest SamplingPrefillBillingEvent"
        " SamplingSampleBillingEvent StorageBillingEvent TrainingBillingEvent get_current_checkpoint_storage_usage"
        " get_current_checkpoint_storage_usage_async CurrentCheckpointStorageUsageItem"
        " CurrentCheckpointStorageUsageResponse GetCurrentCheckpointStorageUsageRequest",
    ),
    (
        "list_sessions and get_session return sessions; search and trace export are not implemented",
        "search_sessions export_session_trace export_session_trace_async AccessibleSearchOwner OwnSearchOwner"
        " UserSearchOwner SearchOwner SessionSearchCursor SessionSearchRequest SessionSearchResponse SessionSummary"
        " SessionStatus SessionStatusQuery SessionActive SessionCancelled SessionFailed SessionFailedReason"
        " SessionFailedRequestReason SessionFailedSamplingSessionReason SessionFailedTrainingRunReason"
        " ActiveSessionStatusQuery CancelledSessionStatusQuery ClientFinishedSessionStatusQuery"
        " ClientSessionFinished FailedSessionStatusQuery",
    ),
    (
        "provenance spans and dmel chunks cannot be encoded in protocol 0.7.0",
        "DmelChunk PromptProvenanceSpan SampledProvenanceSpan ProvenanceSpans with_provenance model_input_spans"
        " loss_fn_input_spans",
    ),
    (
        "ServiceClient.close(status, detail) reports how a session ended",
        "ClientSessionFinishErrored ClientSessionFinishInterrupted ClientSessionFinishReason"
        " ClientSessionFinishReasonType ClientSessionFinishSuccess",
    ),
    (
        "the clients send this request themselves",
        "ClientConfigRequest CopyWeightsRequest JoinSamplingSessionRequest SaveWeightsExternalRequest"
        " SaveWeightsExternalResponseInternal FutureCompletion FutureFailed FutureFinished FuturesRetrieveRequest"
        " FuturesRetrieveResponse SamplingSessionFuturesTarget",
    ),
    ("a sampling client can be pickled and used in another process", "get_sampler_handle from_sampler_handle"),
    ("this package does not contain the web addresses of the hosted service", "get_console_url get_playground_url"),
    ("raw responses are internal to the official client", "APIResponse AsyncAPIResponse"),
    ("save_weights_and_get_sampling_client returns the client itself", "BackcompatSamplingClientFuture"),
    ("create_training_client_from_state returns the client itself", "BackcompatTrainingClientFuture"),
    ("this package does not use it", "ExperimentalWarning"),
    ("keys and credential commands are settings: api_key, TINKER_API_KEY, TINKER_CREDENTIAL_CMD", "auth"),
    ("the messages are internal to this package", "proto"),
    (
        "this package has no low-level client",
        "resources _base_client _client _compat _files _models _qs _resource _response _streaming",
    ),
)
#: The reason for each name.
REASONS: Dict[str, str] = {name: text for text, names in _GROUPS for name in names.split()}


def reason(name: str) -> str:
    """Return why compat does not have a name; "" if the official package does not have it either."""
    return REASONS.get(name, "")


def raise_absent(owner: str, name: str) -> NoReturn:
    """Raise the AttributeError for a name that ``owner`` does not have, with the reason."""
    text = reason(name)
    explanation = f", which the official package has: {text}" if text else ""
    raise AttributeError(f"{owner} has no attribute {name!r}{explanation}")


class AbsentMember:
    """Descriptor of a member that a type of the official package has. Reading it raises the AttributeError."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> NoReturn:
        raise_absent(repr(owner.__name__), self._name)
