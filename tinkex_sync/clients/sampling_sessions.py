"""Opening a sampling session, for service clients and training clients."""

from __future__ import annotations

from typing import Optional

from .. import types
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import RetryConfig
from ..session import Session
from ..validation import check_model_path
from .base import CallOperation, Client
from .sampling import SamplingClient

__all__ = [
    "check_sampling_target",
    "open_sampling_client",
    "sampling_client_operation",
]


def check_sampling_target(model_path: Optional[str], base_model: Optional[str]) -> None:
    """Raise ValueError unless a base model or a path that begins with ``tinker://`` is given."""
    if model_path is None and base_model is None:
        raise ValueError("Either model_path or base_model must be provided")
    if model_path is not None:
        check_model_path(model_path)


def open_sampling_client(
    session: Session,
    *,
    model_path: Optional[str],
    base_model: Optional[str],
    retry_config: Optional[RetryConfig] = None,
    record_stability_info: bool = False,
    call: Optional[CallState] = None,
    deadline: Optional[float] = None,
) -> SamplingClient:
    """Open a sampling session on saved weights or a base model. POST /api/v1/create_sampling_session."""
    check_sampling_target(model_path, base_model)
    body = types.CreateSamplingSessionRequest(
        session_id=session.session_id,
        sampling_session_seq_id=session.next_number("sampling_session_seq_id"),
        base_model=base_model,
        model_path=model_path,
    )
    answer: types.CreateSamplingSessionResponse = session.call(
        Request("create_sampling_session", body, call=call, deadline=deadline)
    )
    return SamplingClient(
        session,
        answer.sampling_session_id,
        retry_config=retry_config,
        record_stability_info=record_stability_info,
    )


def sampling_client_operation(
    client: Client,
    *,
    model_path: Optional[str],
    base_model: Optional[str],
    retry_config: Optional[RetryConfig] = None,
    record_stability_info: bool = False,
) -> CallOperation[SamplingClient]:
    """Return the operation that opens a sampling session and returns its client.

    Raises:
        ValueError: Neither saved weights nor a base model are given, or ``model_path`` is not a ``tinker://`` path.
    """
    check_sampling_target(model_path, base_model)
    return CallOperation(
        client,
        "create_sampling_client",
        lambda call, deadline: open_sampling_client(
            client.session,
            model_path=model_path,
            base_model=base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
            call=call,
            deadline=deadline,
        ),
    )
