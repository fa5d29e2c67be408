"""Names of the newest official package that are not here, and why."""

from __future__ import annotations

from typing import Any, Dict

__all__ = ["absent"]

_TRACED = "custom losses are computed here, by forward_backward_custom, and not traced for the server"
_ACCOUNT = "accounts, audits and bills are looked after on the service's own pages"
_SPANS = "provenance spans and dmel chunks have no wire form of level 0.7.0, so no datum can carry them"
_RAW = "raw responses are internal to the official client"

_REASONS: Dict[str, str] = {
    **dict.fromkeys(("LossHandle", "PerDatumLossFn", "CreateCustomLossRequest", "CustomLossGraph"), _TRACED),
    **dict.fromkeys(("AdminClient", "WhoamiResponse", "AuditLogResponse", "BillingUsageResponse"), _ACCOUNT),
    **dict.fromkeys(("DmelChunk", "PromptProvenanceSpan", "SampledProvenanceSpan"), _SPANS),
    **dict.fromkeys(("APIResponse", "AsyncAPIResponse"), _RAW),
    "BackcompatSamplingClientFuture": "save_weights_and_get_sampling_client gives the client itself",
    "BackcompatTrainingClientFuture": "create_training_client_from_state gives the client itself",
    "ExperimentalWarning": "nothing here warns with it",
}


def absent(name: str) -> Any:
    """Raises AttributeError for a name that is looked up and not here; says why, where the official package has it."""
    why = _REASONS.get(name)
    told = f"; the official package has it, and this one has not: {why}" if why else ""
    raise AttributeError(f"module 'tinkex_sync.compat' has no attribute {name!r}{told}")
