"""Which endpoints a server has, asked so that nothing happens there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Dict, List, Tuple

if TYPE_CHECKING:
    from ..session import Session

__all__ = ["Needed", "missing_endpoints"]


@dataclass(frozen=True)
class Needed:
    """An endpoint, and what a user loses without it."""

    #: Row of ``endpoints.ENDPOINTS``.
    name: str
    #: What there is none of then.
    loses: str
    #: Only where today's protocol is spoken.
    modern: bool = False
    path: str = ""


_TABLE: Tuple[Needed, ...] = (
    Needed("get_server_capabilities", "listing of the models"),
    Needed("create_model", "training"),
    Needed("get_info", "tokenizer of a training client"),
    Needed("forward", "forward passes (and no custom loss)"),
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
    Needed("retrieve_futures", "fetching of many results at once", modern=True),
    Needed("finish_session", "word to the server on how a session ended", modern=True),
)
#: Names that nothing has, by field of a path.
_NOTHING = {
    "run": "tinkex-sync-doctor",
    "session": "tinkex-sync-doctor",
    "sampler": "tinkex-sync-doctor",
    "checkpoint_path": "weights/tinkex-sync-doctor",
}
_FIELD = re.compile(r"{(\w+)}")


def missing_endpoints(session: Session, patience: float) -> Tuple[List[Needed], int]:
    """What the server lacks, and how many were asked for.

    If the server answers 405 to a method that no endpoint has, that tells of each path whether it is known. If not,
    they are asked with their own method, an empty body and names of things that do not exist; then those that
    delete something are left out.

    Raises:
        APIConnectionError: the server went away.
    """
    from ..endpoints import ENDPOINTS

    told_by_method = _status(session, "PUT", ENDPOINTS["create_session"].url(), patience)[0] == 405
    lost: List[Needed] = []
    asked = 0
    for row in _TABLE:
        endpoint = ENDPOINTS[row.name]
        if (row.modern and not session.protocol.modern) or (
            endpoint.method == "DELETE" and not told_by_method
        ):
            continue
        asked += 1
        path = endpoint.url(**{name: _NOTHING[name] for name in _FIELD.findall(endpoint.path)})
        status, no_thing = _status(session, "PUT" if told_by_method else endpoint.method, path, patience)
        if status == 404 and (told_by_method or no_thing):
            lost.append(replace(row, path=path))
    return lost, asked


def _status(session: Session, method: str, path: str, patience: float) -> Tuple[int, bool]:
    """What the server answers, 0 if it takes too long; and whether it says that there is no such path."""
    from ..advice import names_no_thing
    from ..errors import APIStatusError, APITimeoutError

    headers: Dict[str, str] = {}
    if session.tokens is not None:
        headers["X-API-Key"] = session.tokens.current(session.clock.time() + patience)
    body = None if method == "GET" else b"{}"
    try:
        reply = session.transport.send(
            method, path, body=body, headers=headers, read_timeout=patience, redirect_ok=True
        )
    except APIStatusError as error:
        return error.status_code, names_no_thing(error)
    except APITimeoutError:
        return 0, False
    return reply.status, False
