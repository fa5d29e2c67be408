"""Looking at and managing what is stored on the server: runs, checkpoints, sessions, samplers."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Iterator, Optional, Type, TypeVar
from urllib.parse import urlsplit

from .. import types
from ..errors import APIResponseValidationError, status_error
from ..futures import Future
from ..http.call_state import CallState
from ..http.request import Request
from ..http.transport import Reply
from ..plugins.hookspecs import Source
from ..session import Session
from .rest_calls import AccessScope, Operation, split_tinker_path
from .rest_today import StoredToday

__all__ = ["RestClient", "split_tinker_path"]

T = TypeVar("T")

#: How long an archive URL is assumed to be good if the server does not say.
_URL_LIFE = timedelta(minutes=15)
_PAGE = 100


class RestClient(StoredToday):
    """Runs, checkpoints, sessions and samplers of an account. Thread-safe; made by :class:`ServiceClient`.

    Methods raise ValueError for an argument that cannot be right, NotFoundError and the other status errors for
    what the server refuses, APIConnectionError after five minutes without an answer. ``timeout`` is in seconds.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session, Source("rest", session.session_id, session.session_id))

    def __repr__(self) -> str:
        return f"<RestClient of session {self._source.session_id!r}>"

    # Training runs

    def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: Optional[AccessScope] = None,
        project_id: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.TrainingRunsResponse:
        """One page of runs, newest first. GET /api/v1/training_runs.

        Args:
            access_scope: "accessible": those of others too that the account may read; None leaves it to the server,
                which shows the account's own. This and the next are of the protocol after 0.7.0.
            project_id: Those of one project.
        """
        operation = self._runs(limit, offset, access_scope, project_id)
        return self._run("list_training_runs", operation, timeout)

    def submit_list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: Optional[AccessScope] = None,
        project_id: Optional[str] = None,
    ) -> Future[types.TrainingRunsResponse]:
        """:meth:`list_training_runs`, without waiting."""
        return self._submit("list_training_runs", self._runs(limit, offset, access_scope, project_id))

    def _runs(
        self, limit: int, offset: int, access_scope: Optional[AccessScope], project_id: Optional[str]
    ) -> Operation[types.TrainingRunsResponse]:
        asked_for = {"access_scope": access_scope, "project_id": project_id}
        return self._page("training_runs", limit, offset, types.TrainingRunsResponse, **asked_for)

    def iter_training_runs(
        self,
        page_size: int = _PAGE,
        access_scope: Optional[AccessScope] = None,
        project_id: Optional[str] = None,
    ) -> Iterator[types.TrainingRun]:
        """Every run, fetched a page at a time as the iteration goes on."""
        return _pages(
            lambda offset: self.list_training_runs(page_size, offset, access_scope, project_id),
            "training_runs",
            page_size,
        )

    def get_training_run(
        self,
        training_run_id: str,
        access_scope: Optional[AccessScope] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.TrainingRun:
        """One run; ``access_scope`` as for :meth:`list_training_runs`. GET /api/v1/training_runs/{id}."""
        return self._run("get_training_run", self._training_run(training_run_id, access_scope), timeout)

    def submit_get_training_run(
        self, training_run_id: str, access_scope: Optional[AccessScope] = None
    ) -> Future[types.TrainingRun]:
        """:meth:`get_training_run`, without waiting."""
        return self._submit("get_training_run", self._training_run(training_run_id, access_scope))

    def get_training_run_by_tinker_path(
        self,
        tinker_path: str,
        access_scope: Optional[AccessScope] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.TrainingRun:
        """The run a checkpoint belongs to; ``access_scope`` as for :meth:`list_training_runs`."""
        return self.get_training_run(split_tinker_path(tinker_path)[0], access_scope, timeout=timeout)

    def submit_get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: Optional[AccessScope] = None
    ) -> Future[types.TrainingRun]:
        """:meth:`get_training_run_by_tinker_path`, without waiting."""
        return self.submit_get_training_run(split_tinker_path(tinker_path)[0], access_scope)

    def get_weights_info_by_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> types.WeightsInfoResponse:
        """Base model and rank of saved weights. POST /api/v1/weights_info."""
        return self._run("get_weights_info_by_tinker_path", self._weights_info(tinker_path), timeout)

    def submit_get_weights_info_by_tinker_path(self, tinker_path: str) -> Future[types.WeightsInfoResponse]:
        """:meth:`get_weights_info_by_tinker_path`, without waiting."""
        return self._submit("get_weights_info_by_tinker_path", self._weights_info(tinker_path))

    # Checkpoints

    def list_checkpoints(
        self, training_run_id: str, *, timeout: Optional[float] = None
    ) -> types.CheckpointsListResponse:
        """All checkpoints of a run. GET /api/v1/training_runs/{id}/checkpoints."""
        return self._run("list_checkpoints", self._run_checkpoints(training_run_id), timeout)

    def submit_list_checkpoints(self, training_run_id: str) -> Future[types.CheckpointsListResponse]:
        """:meth:`list_checkpoints`, without waiting."""
        return self._submit("list_checkpoints", self._run_checkpoints(training_run_id))

    def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0, *, timeout: Optional[float] = None
    ) -> types.CheckpointsListResponse:
        """One page of the checkpoints of all runs, newest first. GET /api/v1/checkpoints."""
        return self._run(
            "list_user_checkpoints",
            self._page("checkpoints", limit, offset, types.CheckpointsListResponse),
            timeout,
        )

    def submit_list_user_checkpoints(
        self, limit: int = 100, offset: int = 0
    ) -> Future[types.CheckpointsListResponse]:
        """:meth:`list_user_checkpoints`, without waiting."""
        return self._submit(
            "list_user_checkpoints", self._page("checkpoints", limit, offset, types.CheckpointsListResponse)
        )

    def iter_user_checkpoints(self, page_size: int = _PAGE) -> Iterator[types.Checkpoint]:
        """Every checkpoint, fetched a page at a time as the iteration goes on."""
        return _pages(lambda offset: self.list_user_checkpoints(page_size, offset), "checkpoints", page_size)

    def delete_checkpoint(
        self, training_run_id: str, checkpoint_id: str, *, timeout: Optional[float] = None
    ) -> None:
        """Delete a checkpoint for good; ``checkpoint_id`` is ``weights/NAME`` or ``sampler_weights/NAME``."""
        self._run(
            "delete_checkpoint", self._change("delete_checkpoint", training_run_id, checkpoint_id), timeout
        )

    def submit_delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> Future[None]:
        """:meth:`delete_checkpoint`, without waiting."""
        return self._submit(
            "delete_checkpoint", self._change("delete_checkpoint", training_run_id, checkpoint_id)
        )

    def delete_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> None:
        """Delete a checkpoint for good."""
        self.delete_checkpoint(*split_tinker_path(tinker_path), timeout=timeout)

    def submit_delete_checkpoint_from_tinker_path(self, tinker_path: str) -> Future[None]:
        """:meth:`delete_checkpoint_from_tinker_path`, without waiting."""
        return self.submit_delete_checkpoint(*split_tinker_path(tinker_path))

    def publish_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> None:
        """Let everybody read a checkpoint."""
        operation = self._change("publish_checkpoint", *split_tinker_path(tinker_path))
        self._run("publish_checkpoint_from_tinker_path", operation, timeout)

    def submit_publish_checkpoint_from_tinker_path(self, tinker_path: str) -> Future[None]:
        """:meth:`publish_checkpoint_from_tinker_path`, without waiting."""
        operation = self._change("publish_checkpoint", *split_tinker_path(tinker_path))
        return self._submit("publish_checkpoint_from_tinker_path", operation)

    def unpublish_checkpoint_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> None:
        """Take a checkpoint back from the public."""
        operation = self._change("unpublish_checkpoint", *split_tinker_path(tinker_path))
        self._run("unpublish_checkpoint_from_tinker_path", operation, timeout)

    def submit_unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> Future[None]:
        """:meth:`unpublish_checkpoint_from_tinker_path`, without waiting."""
        operation = self._change("unpublish_checkpoint", *split_tinker_path(tinker_path))
        return self._submit("unpublish_checkpoint_from_tinker_path", operation)

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str, *, timeout: Optional[float] = None
    ) -> types.CheckpointArchiveUrlResponse:
        """Where a checkpoint's archive can be fetched, and until when. GET .../checkpoints/{id}/archive."""
        return self._run(
            "get_checkpoint_archive_url", self._archive_url(training_run_id, checkpoint_id), timeout
        )

    def submit_get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> Future[types.CheckpointArchiveUrlResponse]:
        """:meth:`get_checkpoint_archive_url`, without waiting."""
        return self._submit("get_checkpoint_archive_url", self._archive_url(training_run_id, checkpoint_id))

    def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> types.CheckpointArchiveUrlResponse:
        """Where a checkpoint's archive can be fetched, and until when."""
        return self.get_checkpoint_archive_url(*split_tinker_path(tinker_path), timeout=timeout)

    def submit_get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str
    ) -> Future[types.CheckpointArchiveUrlResponse]:
        """:meth:`get_checkpoint_archive_url_from_tinker_path`, without waiting."""
        return self.submit_get_checkpoint_archive_url(*split_tinker_path(tinker_path))

    # Sessions and samplers

    def get_session(
        self,
        session_id: str,
        access_scope: Optional[AccessScope] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.GetSessionResponse:
        """Runs and samplers of a session. GET /api/v1/sessions/{id}."""
        return self._run("get_session", self._one_session(session_id, access_scope), timeout)

    def submit_get_session(
        self, session_id: str, access_scope: Optional[AccessScope] = None
    ) -> Future[types.GetSessionResponse]:
        """:meth:`get_session`, without waiting."""
        return self._submit("get_session", self._one_session(session_id, access_scope))

    def _one_session(
        self, session_id: str, access_scope: Optional[AccessScope]
    ) -> Operation[types.GetSessionResponse]:
        parts = {"session": session_id}
        return self._get("session", parts, types.GetSessionResponse, access_scope=access_scope)

    def list_sessions(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: Optional[AccessScope] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.ListSessionsResponse:
        """One page of session ids. GET /api/v1/sessions."""
        return self._run("list_sessions", self._sessions(limit, offset, access_scope), timeout)

    def submit_list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: Optional[AccessScope] = None
    ) -> Future[types.ListSessionsResponse]:
        """:meth:`list_sessions`, without waiting."""
        return self._submit("list_sessions", self._sessions(limit, offset, access_scope))

    def _sessions(
        self, limit: int, offset: int, access_scope: Optional[AccessScope]
    ) -> Operation[types.ListSessionsResponse]:
        return self._page("sessions", limit, offset, types.ListSessionsResponse, access_scope=access_scope)

    def iter_sessions(
        self, page_size: int = _PAGE, access_scope: Optional[AccessScope] = None
    ) -> Iterator[str]:
        """Every session id, fetched a page at a time as the iteration goes on."""
        return _pages(
            lambda offset: self.list_sessions(page_size, offset, access_scope), "sessions", page_size
        )

    def get_sampler(self, sampler_id: str, *, timeout: Optional[float] = None) -> types.GetSamplerResponse:
        """What a sampling session samples from. GET /api/v1/samplers/{id}."""
        return self._run("get_sampler", self._by_id("sampler", sampler_id, types.GetSamplerResponse), timeout)

    def submit_get_sampler(self, sampler_id: str) -> Future[types.GetSamplerResponse]:
        """:meth:`get_sampler`, without waiting."""
        return self._submit("get_sampler", self._by_id("sampler", sampler_id, types.GetSamplerResponse))

    # The operations

    def _training_run(
        self, training_run_id: str, access_scope: Optional[AccessScope] = None
    ) -> Operation[types.TrainingRun]:
        parts = {"run": training_run_id}
        return self._get("training_run", parts, types.TrainingRun, access_scope=access_scope)

    def _run_checkpoints(self, training_run_id: str) -> Operation[types.CheckpointsListResponse]:
        return self._get("run_checkpoints", {"run": training_run_id}, types.CheckpointsListResponse)

    def _by_id(self, kind: str, value: str, reply: Type[T]) -> Operation[T]:
        return self._get(kind, {kind: value}, reply)

    def _weights_info(self, tinker_path: str) -> Operation[types.WeightsInfoResponse]:
        body = {"tinker_path": tinker_path}

        def fetch(call: CallState, deadline: Optional[float]) -> types.WeightsInfoResponse:
            info: types.WeightsInfoResponse = self._session.call(
                Request("weights_info", body, call=call, deadline=deadline)
            )
            return info

        return fetch

    def _change(self, endpoint: str, training_run_id: str, checkpoint_id: str) -> Operation[None]:
        send = self._get(endpoint, {"run": training_run_id, "checkpoint_path": checkpoint_id}, Reply)

        def change(call: CallState, deadline: Optional[float]) -> None:
            send(call, deadline)

        return change

    def _archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> Operation[types.CheckpointArchiveUrlResponse]:
        send = self._get(
            "checkpoint_archive", {"run": training_run_id, "checkpoint_path": checkpoint_id}, Reply
        )

        def fetch(call: CallState, deadline: Optional[float]) -> types.CheckpointArchiveUrlResponse:
            return _archive(send(call, deadline))

        return fetch


def _archive(reply: Reply) -> types.CheckpointArchiveUrlResponse:
    """A redirect to the archive, or JSON that names it."""
    if 200 <= reply.status < 300:
        found = reply.json()
        if isinstance(found, dict) and "url" in found:
            found = {"expires": (datetime.now(timezone.utc) + _URL_LIFE).isoformat(), **found}
        return types.CheckpointArchiveUrlResponse.from_wire(found)
    url = reply.headers.get("location")
    if not url or reply.status != 302:
        raise status_error(reply.status, body=reply.content.decode("utf-8", "replace"), headers=reply.headers)
    if urlsplit(url).scheme not in ("", "http", "https"):
        raise APIResponseValidationError(
            f"the server keeps this archive at {url!r}, which cannot be fetched over HTTP",
            status_code=reply.status,
            path="location",
        )
    expires = datetime.now(timezone.utc) + _URL_LIFE
    told = reply.headers.get("expires")
    if told:
        with contextlib.suppress(TypeError, ValueError):
            expires = parsedate_to_datetime(told)
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=timezone.utc)
    return types.CheckpointArchiveUrlResponse(url=url, expires=expires)


def _pages(fetch: Callable[[int], Any], field: str, page_size: int) -> Iterator[Any]:
    offset = 0
    while True:
        page = fetch(offset)
        items = getattr(page, field)
        yield from items
        offset += len(items)
        cursor = getattr(page, "cursor", None)
        if len(items) < page_size or (cursor is not None and offset >= cursor.total_count):
            return
