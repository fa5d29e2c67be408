"""Which endpoints a server has, asked so that nothing happens there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Dict, List, Tuple

if TYPE_CHECKING:
    from ...protocol.negotiation import Protocol
    from ...session import Session

__all__ = ["Needed", "missing_endpoints"]


@dataclass(frozen=True)
class Needed:
    """An endpoint, and what a user loses without it."""

    #: Row of ``endpoints.ENDPOINTS``.
    name: str
    #: What there is none of then.
    loses: str
    #: Whether a session needs it, where not all do.
    wanted: Callable[[Protocol], bool] = lambda protocol: True
    path: str = ""


def _speaks_json(protocol: Protocol) -> bool:
    """In protobuf, forward passes are backward ones with a flag."""
    return not protocol.modern


def _fetches_in_bulk(protocol: Protocol) -> bool:
    return protocol.modern and protocol.announced.sample_use_retrieve_futures is True


_TABLE: Tuple[Needed, ...] = (
    Needed("get_server_capabilities", "listing of the models"),
    Needed("create_model", "training"),
    Needed("get_info", "tokenizer of a training client"),
    Needed("forward", "forward passes (and no custom loss)", _speaks_json),
    Needed("forward_backward", "training"),
    Needed("optim_step", "training"),
    Needed("save_weights", "saving of training state"),
    Needed("load_weights", "going on from a checkpoint"),
    Needed("weights_info", "going on from a checkpoint"),
    Needed("save_weights_for_sampler", "sampling of trained weights"),
    Needed("create_sampling_session", "sampling"),
    Needed("asample", "sampling"),
    Needed("retrieve_future", "training and no sampling"),
    Needed("training_runs", "run list"),
    Needed("checkpoints", "checkpoint list"),
    Needed("run_checkpoints", "checkpoint list --run-id and no checkpoint info"),
    Needed("publish_checkpoint", "checkpoint publish"),
    Needed("unpublish_checkpoint", "checkpoint unpublish"),
    Needed("delete_checkpoint", "checkpoint delete"),
    Needed("checkpoint_archive", "checkpoint download"),
    Needed("sessions", "session list"),
    Needed("session", "session info"),
    Needed("sampler", "look-up of what a sampler samples from"),
    Needed("retrieve_futures", "fetching of many results at once", _fetches_in_bulk),
)
#: Names that nothing has, by field of a path.
_NOTHING = {
    "run": "tinkex-sync-doctor",
    "session": "tinkex-sync-doctor",
    "sampler": "tinkex-sync-doctor",
    "checkpoint_path": "weights/tinkex-sync-doctor",
}
_FIELD = re.compile(r"{(\w+)}")


def missing_endpoints(session: Session, patience: float) -> Tuple[List[Needed], int, int]:
    """What the server lacks, how many were asked for, and how many of those it gave no answer for.

    If the server answers 405 to a method that no endpoint has, that tells of each path whether it is known. If not,
    they are asked with their own method, an empty body and names of things that do not exist; then those that
    delete something are left out.

    Raises:
        APIConnectionError: the server went away.
    """
    from ...errors import APIConnectionError
    from ...http.endpoints import ENDPOINTS

    told_by_method = _status(session, "PUT", ENDPOINTS["create_session"].url(), patience)[0] == 405
    lost: List[Needed] = []
    asked = silent = 0
    for row in _TABLE:
        endpoint = ENDPOINTS[row.name]
        if not row.wanted(session.protocol) or (endpoint.method == "DELETE" and not told_by_method):
            continue
        path = endpoint.url(**{name: _NOTHING[name] for name in _FIELD.findall(endpoint.path)})
        status, no_thing = _status(session, "PUT" if told_by_method else endpoint.method, path, patience)
        asked += 1
        silent += status == 0
        if status == 404 and (told_by_method or no_thing):
            lost.append(replace(row, path=path))
    if silent == asked:
        raise APIConnectionError("The server answers none of its endpoints any more")
    return lost, asked, silent


def _status(session: Session, method: str, path: str, patience: float) -> Tuple[int, bool]:
    """What the server answers, 0 if it does not; and whether it says that there is no such path.

    Raises:
        APIConnectionError: it takes no connections any more.
    """
    from ...errors import APIConnectionError, APIStatusError
    from ...http.endpoints import Endpoint
    from ...http.error_advice import names_no_thing
    from ...http.request import Request

    headers: Dict[str, str] = {}
    if session.tokens is not None:
        headers["X-API-Key"] = session.tokens.current(session.clock.time() + patience)
    body = None if method == "GET" else b"{}"
    row = Endpoint("probe", method, path[len("/api/v1/") :], read_timeout=patience, redirect_ok=True)
    # Some servers hang up after an error, which shows at the next request on that connection, and some on a body
    # they do not expect; that the path is unknown to them they do not say by it.
    for _ in range(2):
        try:
            reply = session.transport.send(Request(row, body), headers, None)
        except APIStatusError as error:
            return error.status_code, names_no_thing(error)
        except APIConnectionError as error:
            if error.unsent:
                raise
            if not error.reused or isinstance(error, TimeoutError):
                break
        else:
            return reply.status, False
    return 0, False
