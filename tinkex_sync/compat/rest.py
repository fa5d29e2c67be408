"""The official RestClient: its methods are those of tinkex_sync that submit, under other names."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .. import types
from ..clients import RestClient as _Native
from ..clients.base import request_operation
from ..http.request import Request
from .calls import api_future_method, async_result_method, future_method
from .futures import APIFuture
from .holder import Holder, TelemetryProvider

__all__ = ["RestClient"]


class RestClient(TelemetryProvider):
    """Reads and manages training runs, checkpoints, sessions and samplers."""

    def __init__(self, holder: Holder) -> None:
        self._holder: Optional[Holder] = holder
        self.native = _Native(holder.session)

    def __getstate__(self) -> Dict[str, Any]:
        return {"native": self.native}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._holder, self.native = None, state["native"]

    def get_server_capabilities(self) -> APIFuture[types.GetServerCapabilitiesResponse]:
        """Return the future of the base models that the server supports."""
        name = "get_server_capabilities"
        return APIFuture(request_operation(self.native, name, Request(name)).submit())

    get_weights_info_by_tinker_path = api_future_method(_Native.submit_get_weights_info_by_tinker_path)
    get_sampler = api_future_method(_Native.submit_get_sampler)
    get_sampler_async = async_result_method(_Native.submit_get_sampler)
    list_training_runs = future_method(_Native.submit_list_training_runs, warn=True)
    list_training_runs_async = async_result_method(_Native.submit_list_training_runs)
    get_training_run = future_method(_Native.submit_get_training_run, warn=True)
    get_training_run_async = async_result_method(_Native.submit_get_training_run)
    get_training_run_by_tinker_path = future_method(_Native.submit_get_training_run_by_tinker_path, warn=True)
    get_training_run_by_tinker_path_async = async_result_method(_Native.submit_get_training_run_by_tinker_path)
    list_checkpoints = future_method(_Native.submit_list_checkpoints, warn=True)
    list_checkpoints_async = async_result_method(_Native.submit_list_checkpoints)
    list_user_checkpoints = future_method(_Native.submit_list_user_checkpoints, warn=True)
    list_user_checkpoints_async = async_result_method(_Native.submit_list_user_checkpoints)
    delete_checkpoint = future_method(_Native.submit_delete_checkpoint, warn=True)
    delete_checkpoint_async = async_result_method(_Native.submit_delete_checkpoint)
    delete_checkpoint_from_tinker_path = future_method(_Native.submit_delete_checkpoint_from_tinker_path, warn=True)
    delete_checkpoint_from_tinker_path_async = async_result_method(_Native.submit_delete_checkpoint_from_tinker_path)
    publish_checkpoint_from_tinker_path = future_method(_Native.submit_publish_checkpoint_from_tinker_path, warn=True)
    publish_checkpoint_from_tinker_path_async = async_result_method(_Native.submit_publish_checkpoint_from_tinker_path)
    unpublish_checkpoint_from_tinker_path = future_method(
        _Native.submit_unpublish_checkpoint_from_tinker_path, warn=True
    )
    unpublish_checkpoint_from_tinker_path_async = async_result_method(
        _Native.submit_unpublish_checkpoint_from_tinker_path
    )
    get_checkpoint_archive_url = future_method(_Native.submit_get_checkpoint_archive_url, warn=True)
    get_checkpoint_archive_url_async = async_result_method(_Native.submit_get_checkpoint_archive_url)
    get_checkpoint_archive_url_from_tinker_path = future_method(
        _Native.submit_get_checkpoint_archive_url_from_tinker_path, warn=True
    )
    get_checkpoint_archive_url_from_tinker_path_async = async_result_method(
        _Native.submit_get_checkpoint_archive_url_from_tinker_path
    )
    get_session = future_method(_Native.submit_get_session, warn=True)
    get_session_async = async_result_method(_Native.submit_get_session)
    list_sessions = future_method(_Native.submit_list_sessions, warn=True)
    list_sessions_async = async_result_method(_Native.submit_list_sessions)
    set_checkpoint_ttl_from_tinker_path = future_method(_Native.submit_set_checkpoint_ttl_from_tinker_path, warn=True)
    set_checkpoint_ttl_from_tinker_path_async = async_result_method(_Native.submit_set_checkpoint_ttl_from_tinker_path)
    assign_session_project = future_method(_Native.submit_assign_session_project, warn=True)
    assign_session_project_async = async_result_method(_Native.submit_assign_session_project)
    copy_weights = future_method(_Native.submit_copy_weights, warn=True)
    copy_weights_async = async_result_method(_Native.submit_copy_weights)
    get_external_weights_urls = future_method(_Native.submit_get_external_weights_urls, warn=True)
    get_external_weights_urls_async = async_result_method(_Native.submit_get_external_weights_urls)
