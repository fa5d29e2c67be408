"""Find out which endpoints a server has, with requests that change nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Dict, List, Tuple

if TYPE_CHECKING:
    from ...protocol.negotiation import Capabilities
    from ...session import Session

__all__ = ["ProbeResult", "RequiredEndpoint", "probe_endpoints"]


@dataclass(frozen=True)
class RequiredEndpoint:
    """An endpoint, and the features that need it."""

    #: The name of its row in ``endpoints.ENDPOINTS``.
    name: str
    #: The features that do not work without it.
    features: str
    #: Whether a session with these capabilities uses it.
    is_used: Callable[[Capabilities], bool] = lambda capabilities: True
    path: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """The result of :func:`probe_endpoints`."""

    missing: List[RequiredEndpoint]
    #: Number of endpoints that were requested.
    requested: int
    #: Number of requests without a response.
    unanswered: int


def _sends_forward(capabilities: Capabilities) -> bool:
    """Return whether forward passes have an endpoint of their own. In protobuf they are a flag of backward passes."""
    return not capabilities.supports_protobuf


def _sends_bulk_polls(capabilities: Capabilities) -> bool:
    return capabilities.bulk_polls


_TABLE: Tuple[RequiredEndpoint, ...] = (
    RequiredEndpoint("get_server_capabilities", "the list of models"),
    RequiredEndpoint("create_model", "training"),
    RequiredEndpoint("get_info", "the tokenizer of a training client"),
    RequiredEndpoint("forward", "forward passes and custom losses", _sends_forward),
    RequiredEndpoint("forward_backward", "training"),
    RequiredEndpoint("optim_step", "training"),
    RequiredEndpoint("save_weights", "saving of training state"),
    RequiredEndpoint("load_weights", "training from a checkpoint"),
    RequiredEndpoint("weights_info", "training from a checkpoint"),
    RequiredEndpoint("save_weights_for_sampler", "sampling of trained weights"),
    RequiredEndpoint("create_sampling_session", "sampling"),
    RequiredEndpoint("asample", "sampling"),
    RequiredEndpoint("retrieve_future", "training and sampling"),
    RequiredEndpoint("training_runs", "run list"),
    RequiredEndpoint("checkpoints", "checkpoint list"),
    RequiredEndpoint("run_checkpoints", "checkpoint list --run-id and checkpoint info"),
    RequiredEndpoint("publish_checkpoint", "checkpoint publish"),
    RequiredEndpoint("unpublish_checkpoint", "checkpoint unpublish"),
    RequiredEndpoint("delete_checkpoint", "checkpoint delete"),
    RequiredEndpoint("checkpoint_archive", "checkpoint download"),
    RequiredEndpoint("sessions", "session list"),
    RequiredEndpoint("session", "session info"),
    RequiredEndpoint("sampler", "the base model of a sampler"),
    RequiredEndpoint("retrieve_futures", "retrieval of many results in one request", _sends_bulk_polls),
)
#: Names that no server has, by the field of a path.
_UNKNOWN_NAMES = {
    "run": "tinkex-sync-doctor",
    "session": "tinkex-sync-doctor",
    "sampler": "tinkex-sync-doctor",
    "checkpoint_path": "weights/tinkex-sync-doctor",
}
_FIELD = re.compile(r"{(\w+)}")
_PREFIX = "/api/v1/"


def probe_endpoints(session: Session, timeout: float) -> ProbeResult:
    """Request all endpoints that a session uses, and return those that the server does not have.

    The requests use the method PUT, which no endpoint has, if the server returns 405 for it: then 404 means that the
    path is unknown. Otherwise they use the endpoint's own method with an empty body and unknown names, and DELETE is
    left out.

    Args:
        timeout: Longest time for each response, in seconds.

    Raises:
        APIConnectionError: The server responds to no request, or accepts no connection.
    """
    from ...errors import APIConnectionError
    from ...http.endpoints import ENDPOINTS

    reports_methods = _request(session, "PUT", ENDPOINTS["create_session"].url(), timeout)[0] == 405
    missing: List[RequiredEndpoint] = []
    requested = unanswered = 0
    for row in _TABLE:
        endpoint = ENDPOINTS[row.name]
        if not row.is_used(session.capabilities) or (endpoint.method == "DELETE" and not reports_methods):
            continue
        path = endpoint.url(**{name: _UNKNOWN_NAMES[name] for name in _FIELD.findall(endpoint.path)})
        method = "PUT" if reports_methods else endpoint.method
        status, is_path_unknown = _request(session, method, path, timeout)
        requested += 1
        unanswered += status == 0
        if status == 404 and (reports_methods or is_path_unknown):
            missing.append(replace(row, path=path))
    if unanswered == requested:
        raise APIConnectionError("The server responds to none of its endpoints any more")
    return ProbeResult(missing, requested, unanswered)


def _request(session: Session, method: str, path: str, timeout: float) -> Tuple[int, bool]:
    """Send one request.

    Returns:
        The status code, or 0 without a response, and whether the response names an unknown path.

    Raises:
        APIConnectionError: The server accepts no connection.
    """
    from ...errors import APIConnectionError, APIStatusError
    from ...http.endpoints import Endpoint
    from ...http.error_advice import is_unknown_endpoint
    from ...http.request import Request

    headers: Dict[str, str] = {}
    token = session.credentials.key(False, session.clock.time() + timeout)
    if token is not None:
        headers["X-API-Key"] = token
    body = None if method == "GET" else b"{}"
    row = Endpoint("probe", None, None, method, path[len(_PREFIX) :], read_timeout=timeout, redirect_ok=True)
    # Some servers close the connection after an error, which shows at the next request on it. Others close it after an
    # unexpected body. Neither means that the path is unknown.
    for _ in range(2):
        try:
            response = session.transport.send(Request(row, body), headers, None)
        except APIStatusError as error:
            return error.status_code, is_unknown_endpoint(error)
        except APIConnectionError as error:
            if error.unsent:
                raise
            if not error.reused or isinstance(error, TimeoutError):
                break
        else:
            return response.status, False
    return 0, False
