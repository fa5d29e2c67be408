"""The client for stored resources: training runs, checkpoints, sessions and samplers."""

from __future__ import annotations

import contextlib
import uuid
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Dict, Iterator, Literal, Mapping, Optional

from .. import types
from ..errors import status_error
from ..futures import Operation
from ..http.request import Request
from ..http.transport import Response
from ..plugins.events import Source
from ..session import Session
from ..validation import check_count, check_one_of, check_optional_text, check_text, check_ttl, split_checkpoint_path
from .base import CallOperation, RebuildingClient, blocking, request_operation, submitted

#: Which resources a list contains: those of the account, or all that the account may read.
AccessScope = Literal["owned", "accessible"]

#: The lifetime of an archive URL for which the server does not return one.
_URL_LIFETIME = timedelta(minutes=15)
_PAGE_SIZE = 100
#: The arguments that fill the fields of endpoint paths.
_PATH_ARGUMENTS = {
    "run": "training_run_id",
    "checkpoint_path": "checkpoint_id",
    "session": "session_id",
    "sampler": "sampler_id",
}


class RestClient(RebuildingClient):
    """Reads and manages the resources that an account has on the server. Thread-safe.

    :meth:`ServiceClient.create_rest_client` makes it. It continues to work in a forked process and after pickling.

    All methods raise:

    - ValueError: an argument is invalid. Nothing was sent.
    - NotFoundError or another APIStatusError: the server rejected the request. A server of protocol 0.7.0 returns
      404 for the operations that are marked 0.38.0.
    - APIConnectionError: there was no response for five minutes.
    - DeadlineExceeded: there was no result within ``timeout`` seconds; the default is ``Config.timeout``.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session, Source("rest", session.session_id, session.session_id))

    def __repr__(self) -> str:
        return f"<RestClient of session {self.source.session_id!r}>"

    # Training runs

    @blocking
    def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: Optional[AccessScope] = None,
        project_id: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.TrainingRunsResponse]:
        """Return one page of training runs, newest first. GET /api/v1/training_runs.

        Args:
            limit: Number of runs of the page, at most.
            offset: Number of runs before the page.
            access_scope: "owned" or "accessible"; None: the server's default, "owned". 0.38.0.
            project_id: Return only runs of this project. 0.38.0.
        """
        query = {**_page(limit, offset), **_filters(access_scope, project_id)}
        return self._request("list_training_runs", "training_runs", query=query)

    submit_list_training_runs = submitted(list_training_runs)

    def iter_training_runs(
        self, page_size: int = _PAGE_SIZE, access_scope: Optional[AccessScope] = None, project_id: Optional[str] = None
    ) -> Iterator[types.TrainingRun]:
        """Iterate over all training runs, and request each page when the iteration reaches it.

        Args:
            page_size: Number of runs of each request.
            access_scope, project_id: As for :meth:`list_training_runs`.
        """
        return _pages(
            lambda offset: self.list_training_runs(page_size, offset, access_scope, project_id),
            "training_runs",
            page_size,
        )

    @blocking
    def get_training_run(
        self, training_run_id: str, access_scope: Optional[AccessScope] = None, *, timeout: Optional[float] = None
    ) -> Operation[types.TrainingRun]:
        """Return one training run. GET /api/v1/training_runs/{id}.

        Args:
            access_scope: As for :meth:`list_training_runs`.
        """
        path_values = {"run": training_run_id}
        return self._request("get_training_run", "training_run", path_values, query=_filters(access_scope))

    submit_get_training_run = submitted(get_training_run)

    @blocking
    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: Optional[AccessScope] = None, *, timeout: Optional[float] = None
    ) -> Operation[types.TrainingRun]:
        """Return the training run of a checkpoint. GET /api/v1/training_runs/{id}.

        Args:
            tinker_path: Path of the checkpoint: ``tinker://RUN/weights/NAME``.
            access_scope: As for :meth:`list_training_runs`.
        """
        path_values = {"run": split_checkpoint_path(tinker_path)[0]}
        query = _filters(access_scope)
        return self._request("get_training_run_by_tinker_path", "training_run", path_values, query=query)

    submit_get_training_run_by_tinker_path = submitted(get_training_run_by_tinker_path)

    @blocking
    def get_weights_info_by_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[types.WeightsInfoResponse]:
        """Return the base model and the adapter's rank of saved weights. POST /api/v1/weights_info."""
        body = types.WeightsInfoRequest(tinker_path)
        return self._request("get_weights_info_by_tinker_path", "weights_info", body=body)

    submit_get_weights_info_by_tinker_path = submitted(get_weights_info_by_tinker_path)

    # Checkpoints

    @blocking
    def list_checkpoints(
        self, training_run_id: str, *, timeout: Optional[float] = None
    ) -> Operation[types.CheckpointsListResponse]:
        """Return all checkpoints of a training run. GET /api/v1/training_runs/{id}/checkpoints."""
        return self._request("list_checkpoints", "run_checkpoints", {"run": training_run_id})

    submit_list_checkpoints = submitted(list_checkpoints)

    @blocking
    def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0, *, timeout: Optional[float] = None
    ) -> Operation[types.CheckpointsListResponse]:
        """Return one page of the checkpoints of all training runs, newest first. GET /api/v1/checkpoints.

        Args:
            limit: Number of checkpoints of the page, at most.
            offset: Number of checkpoints before the page.
        """
        return self._request("list_user_checkpoints", "checkpoints", query=_page(limit, offset))

    submit_list_user_checkpoints = submitted(list_user_checkpoints)

    def iter_user_checkpoints(self, page_size: int = _PAGE_SIZE) -> Iterator[types.Checkpoint]:
        """Iterate over the checkpoints of all training runs, and request each page when the iteration reaches it.

        Args:
            page_size: Number of checkpoints of each request.
        """
        return _pages(lambda offset: self.list_user_checkpoints(page_size, offset), "checkpoints", page_size)

    @blocking
    def delete_checkpoint(
        self, training_run_id: str, checkpoint_id: str, *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Delete a checkpoint permanently. DELETE /api/v1/training_runs/{id}/checkpoints/{id}.

        Args:
            checkpoint_id: ``weights/NAME`` or ``sampler_weights/NAME``.
        """
        path_values = {"run": training_run_id, "checkpoint_path": checkpoint_id}
        return self._change("delete_checkpoint", "delete_checkpoint", path_values)

    submit_delete_checkpoint = submitted(delete_checkpoint)

    @blocking
    def delete_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Delete a checkpoint permanently. DELETE /api/v1/training_runs/{id}/checkpoints/{id}.

        Args:
            tinker_path: ``tinker://RUN/weights/NAME`` or ``tinker://RUN/sampler_weights/NAME``.
        """
        return self._change("delete_checkpoint_from_tinker_path", "delete_checkpoint", _path_values(tinker_path))

    submit_delete_checkpoint_from_tinker_path = submitted(delete_checkpoint_from_tinker_path)

    @blocking
    def publish_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Make a checkpoint readable for all accounts. POST .../checkpoints/{id}/publish."""
        return self._change("publish_checkpoint_from_tinker_path", "publish_checkpoint", _path_values(tinker_path))

    submit_publish_checkpoint_from_tinker_path = submitted(publish_checkpoint_from_tinker_path)

    @blocking
    def unpublish_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Make a published checkpoint private again. DELETE .../checkpoints/{id}/publish."""
        return self._change("unpublish_checkpoint_from_tinker_path", "unpublish_checkpoint", _path_values(tinker_path))

    submit_unpublish_checkpoint_from_tinker_path = submitted(unpublish_checkpoint_from_tinker_path)

    @blocking
    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str, *, timeout: Optional[float] = None
    ) -> Operation[types.CheckpointArchiveUrlResponse]:
        """Return the URL of a checkpoint's archive and the time until which it is valid.

        GET .../checkpoints/{id}/archive.
        """
        path_values = {"run": training_run_id, "checkpoint_path": checkpoint_id}
        return self._request(
            "get_checkpoint_archive_url", "checkpoint_archive", path_values, decode=_decode_archive_url
        )

    submit_get_checkpoint_archive_url = submitted(get_checkpoint_archive_url)

    @blocking
    def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[types.CheckpointArchiveUrlResponse]:
        """Return the URL of a checkpoint's archive and the time until which it is valid.

        GET .../checkpoints/{id}/archive.
        """
        name, path_values = "get_checkpoint_archive_url_from_tinker_path", _path_values(tinker_path)
        return self._request(name, "checkpoint_archive", path_values, decode=_decode_archive_url)

    submit_get_checkpoint_archive_url_from_tinker_path = submitted(get_checkpoint_archive_url_from_tinker_path)

    @blocking
    def get_external_weights_urls(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> Operation[types.ExternalWeightsUrlsResponse]:
        """Return the URLs of weights that :meth:`TrainingClient.save_weights_external` saved.

        GET .../checkpoints/{id}/external_weights_urls, 0.38.0.
        """
        return self._request("get_external_weights_urls", "external_weights_urls", _path_values(tinker_path))

    submit_get_external_weights_urls = submitted(get_external_weights_urls)

    @blocking
    def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: Optional[int], *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Set the time after which the server deletes a checkpoint. PUT .../checkpoints/{id}/ttl, 0.38.0.

        Args:
            ttl_seconds: Seconds from now, at least 1; None: the checkpoint is kept.
        """
        body = types.SetCheckpointTtlRequest(check_ttl(ttl_seconds))
        path_values = _path_values(tinker_path)
        return self._change("set_checkpoint_ttl_from_tinker_path", "checkpoint_ttl", path_values, body)

    submit_set_checkpoint_ttl_from_tinker_path = submitted(set_checkpoint_ttl_from_tinker_path)

    @blocking
    def copy_weights(
        self,
        path: str,
        destination_project_id: Optional[str] = None,
        *,
        ttl_seconds: Optional[int] = None,
        weights_access_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Operation[str]:
        """Copy a checkpoint to a new training run and return the path of the copy. POST /api/v1/copy_weights, 0.38.0.

        All retries have the same idempotency key, so that one copy is made.

        Args:
            path: ``tinker://RUN/weights/NAME``.
            destination_project_id: Project of the copy; None: the copy is a training run of this session.
            ttl_seconds: Seconds after which the server deletes the copy, at least 1; None: it is kept.
            weights_access_token: Gives access to weights of another account. A secret; no log contains it.
        """
        split_checkpoint_path(path)
        check_optional_text("destination_project_id", destination_project_id)
        token = check_optional_text("weights_access_token", weights_access_token, secret=True)
        is_own_run = destination_project_id is None
        body = types.CopyWeightsRequest(
            path,
            destination_project_id,
            check_ttl(ttl_seconds),
            session_id=self.source.session_id if is_own_run else None,
            model_seq_id=self.session.next_number("model_seq_id") if is_own_run else None,
        )
        request = Request(
            "copy_weights",
            body,
            headers={"X-Tinker-Weights-Access-Token": token} if token else {},
            idempotency_key=str(uuid.uuid4()),
        )
        return request_operation(self, "copy_weights", request, lambda response: response.tinker_path)

    submit_copy_weights = submitted(copy_weights)

    # Sessions and samplers

    @blocking
    def get_session(
        self, session_id: str, access_scope: Optional[AccessScope] = None, *, timeout: Optional[float] = None
    ) -> Operation[types.GetSessionResponse]:
        """Return the training runs and samplers of a session. GET /api/v1/sessions/{id}.

        Args:
            access_scope: As for :meth:`list_training_runs`.
        """
        return self._request("get_session", "session", {"session": session_id}, query=_filters(access_scope))

    submit_get_session = submitted(get_session)

    @blocking
    def list_sessions(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: Optional[AccessScope] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Operation[types.ListSessionsResponse]:
        """Return one page of session ids. GET /api/v1/sessions.

        Args:
            limit: Number of sessions of the page, at most.
            offset: Number of sessions before the page.
            access_scope: As for :meth:`list_training_runs`.
        """
        query = {**_page(limit, offset), **_filters(access_scope)}
        return self._request("list_sessions", "sessions", query=query)

    submit_list_sessions = submitted(list_sessions)

    def iter_sessions(self, page_size: int = _PAGE_SIZE, access_scope: Optional[AccessScope] = None) -> Iterator[str]:
        """Iterate over all session ids, and request each page when the iteration reaches it.

        Args:
            page_size: Number of sessions of each request.
            access_scope: As for :meth:`list_training_runs`.
        """
        return _pages(lambda offset: self.list_sessions(page_size, offset, access_scope), "sessions", page_size)

    @blocking
    def assign_session_project(
        self, session_id: str, project_id: str, *, timeout: Optional[float] = None
    ) -> Operation[None]:
        """Assign a session and its training runs to a project. PUT /api/v1/sessions/{id}/project, 0.38.0."""
        body = types.AssignSessionProjectRequest(check_text("project_id", project_id))
        return self._change("assign_session_project", "session_project", {"session": session_id}, body)

    submit_assign_session_project = submitted(assign_session_project)

    @blocking
    def get_sampler(self, sampler_id: str, *, timeout: Optional[float] = None) -> Operation[types.GetSamplerResponse]:
        """Return the base model and the weights of a sampling session. GET /api/v1/samplers/{id}."""
        return self._request("get_sampler", "sampler", {"sampler": sampler_id})

    submit_get_sampler = submitted(get_sampler)

    def _request(
        self,
        name: str,
        endpoint: str,
        path_values: Optional[Mapping[str, str]] = None,
        *,
        query: Optional[Mapping[str, Any]] = None,
        body: Any = None,
        decode: Optional[Callable[[Any], Any]] = None,
    ) -> CallOperation[Any]:
        """Return the operation that sends one request.

        Args:
            name: The operation's name.
            endpoint: Row of ``endpoints.ENDPOINTS``.
            path_values: Values of the fields of the endpoint's path; each must be a string that is not empty.
            decode: Makes the result of the decoded response.
        """
        for part, value in (path_values or {}).items():
            check_text(_PATH_ARGUMENTS[part], value)
        request = Request(endpoint, body, path_values=path_values or {}, query=query or None)
        return request_operation(self, name, request, decode)

    def _change(
        self, name: str, endpoint: str, path_values: Mapping[str, str], body: Any = None
    ) -> CallOperation[None]:
        """Return the operation that sends one request whose response has no content."""
        return self._request(name, endpoint, path_values, body=body, decode=lambda response: None)


def _path_values(tinker_path: str) -> Dict[str, str]:
    run, checkpoint = split_checkpoint_path(tinker_path)
    return {"run": run, "checkpoint_path": checkpoint}


def _page(limit: int, offset: int) -> Dict[str, int]:
    return {"limit": check_count("limit", limit), "offset": check_count("offset", offset)}


def _filters(access_scope: Optional[str], project_id: Optional[str] = None) -> Dict[str, str]:
    """Return the query of optional filters; servers of 0.7.0 support none of them, so defaults are not sent."""
    filters = {
        "access_scope": check_one_of("access_scope", access_scope, ("owned", "accessible")),
        "project_id": check_optional_text("project_id", project_id),
    }
    return {name: value for name, value in filters.items() if value is not None}


def _decode_archive_url(response: Response) -> types.CheckpointArchiveUrlResponse:
    """Decode a redirect to the archive, or a JSON body that contains its URL."""
    if 200 <= response.status < 300:
        found = response.json()
        if isinstance(found, dict) and "url" in found:
            found = {"expires": (datetime.now(timezone.utc) + _URL_LIFETIME).isoformat(), **found}
        return types.CheckpointArchiveUrlResponse.from_wire(found)
    url = response.headers.get("location")
    if not url or response.status != 302:
        raise status_error(response.status, body=response.content.decode("utf-8", "replace"), headers=response.headers)
    expires = datetime.now(timezone.utc) + _URL_LIFETIME
    expires_header = response.headers.get("expires")
    if expires_header:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            expires = parsedate_to_datetime(expires_header)
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=timezone.utc)
    return types.CheckpointArchiveUrlResponse(url=url, expires=expires)


def _pages(fetch: Callable[[int], Any], field: str, page_size: int) -> Iterator[Any]:
    check_count("page_size", page_size, least=1)
    offset = 0
    while True:
        page = fetch(offset)
        items = getattr(page, field)
        yield from items
        offset += len(items)
        cursor = getattr(page, "cursor", None)
        if len(items) < page_size or (cursor is not None and offset >= cursor.total_count):
            return
