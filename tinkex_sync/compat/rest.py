"""The official RestClient, each method a renaming of a ``submit_*`` of ours."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .. import types
from ..clients import RestClient as _Rest
from ..futures import Future
from ..http.request import Request
from .absent import Explained
from .calls import awaited, promised, submitted
from .holder import Holder, TelemetryProvider

__all__ = ["RestClient"]


def _get_server_capabilities(rest: _Rest) -> Future[types.GetServerCapabilitiesResponse]:
    session = rest._session
    return rest._submit(
        "get_server_capabilities",
        lambda call, deadline: session.call(Request("get_server_capabilities", call=call, deadline=deadline)),
    )


class RestClient(TelemetryProvider, Explained):
    """Runs, checkpoints, sessions and samplers."""

    def __init__(self, holder: Holder) -> None:
        self._holder: Optional[Holder] = holder
        self._core = _Rest(holder._session)

    def __getstate__(self) -> Dict[str, Any]:
        return {"core": self._core}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._holder, self._core = None, state["core"]

    get_server_capabilities = promised(_get_server_capabilities)
    get_weights_info_by_tinker_path = promised(_Rest.submit_get_weights_info_by_tinker_path)
    get_sampler = promised(_Rest.submit_get_sampler)
    get_sampler_async = awaited(_Rest.submit_get_sampler)
    list_training_runs = submitted(_Rest.submit_list_training_runs, warn=True)
    list_training_runs_async = awaited(_Rest.submit_list_training_runs)
    get_training_run = submitted(_Rest.submit_get_training_run, warn=True)
    get_training_run_async = awaited(_Rest.submit_get_training_run)
    get_training_run_by_tinker_path = submitted(_Rest.submit_get_training_run_by_tinker_path, warn=True)
    get_training_run_by_tinker_path_async = awaited(_Rest.submit_get_training_run_by_tinker_path)
    list_checkpoints = submitted(_Rest.submit_list_checkpoints, warn=True)
    list_checkpoints_async = awaited(_Rest.submit_list_checkpoints)
    list_user_checkpoints = submitted(_Rest.submit_list_user_checkpoints, warn=True)
    list_user_checkpoints_async = awaited(_Rest.submit_list_user_checkpoints)
    delete_checkpoint = submitted(_Rest.submit_delete_checkpoint, warn=True)
    delete_checkpoint_async = awaited(_Rest.submit_delete_checkpoint)
    delete_checkpoint_from_tinker_path = submitted(_Rest.submit_delete_checkpoint_from_tinker_path, warn=True)
    delete_checkpoint_from_tinker_path_async = awaited(_Rest.submit_delete_checkpoint_from_tinker_path)
    publish_checkpoint_from_tinker_path = submitted(
        _Rest.submit_publish_checkpoint_from_tinker_path, warn=True
    )
    publish_checkpoint_from_tinker_path_async = awaited(_Rest.submit_publish_checkpoint_from_tinker_path)
    unpublish_checkpoint_from_tinker_path = submitted(
        _Rest.submit_unpublish_checkpoint_from_tinker_path, warn=True
    )
    unpublish_checkpoint_from_tinker_path_async = awaited(_Rest.submit_unpublish_checkpoint_from_tinker_path)
    get_checkpoint_archive_url = submitted(_Rest.submit_get_checkpoint_archive_url, warn=True)
    get_checkpoint_archive_url_async = awaited(_Rest.submit_get_checkpoint_archive_url)
    get_checkpoint_archive_url_from_tinker_path = submitted(
        _Rest.submit_get_checkpoint_archive_url_from_tinker_path, warn=True
    )
    get_checkpoint_archive_url_from_tinker_path_async = awaited(
        _Rest.submit_get_checkpoint_archive_url_from_tinker_path
    )
    get_session = submitted(_Rest.submit_get_session, warn=True)
    get_session_async = awaited(_Rest.submit_get_session)
    list_sessions = submitted(_Rest.submit_list_sessions, warn=True)
    list_sessions_async = awaited(_Rest.submit_list_sessions)
    set_checkpoint_ttl_from_tinker_path = submitted(
        _Rest.submit_set_checkpoint_ttl_from_tinker_path, warn=True
    )
    set_checkpoint_ttl_from_tinker_path_async = awaited(_Rest.submit_set_checkpoint_ttl_from_tinker_path)
    assign_session_project = submitted(_Rest.submit_assign_session_project, warn=True)
    assign_session_project_async = awaited(_Rest.submit_assign_session_project)
    copy_weights = submitted(_Rest.submit_copy_weights, warn=True)
    copy_weights_async = awaited(_Rest.submit_copy_weights)
    get_external_weights_urls = submitted(_Rest.submit_get_external_weights_urls, warn=True)
    get_external_weights_urls_async = awaited(_Rest.submit_get_external_weights_urls)
