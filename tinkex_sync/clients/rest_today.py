"""What the protocol after 0.7.0 does with stored checkpoints and sessions."""

from __future__ import annotations

import uuid
from typing import Optional

from .. import types
from ..futures import Future
from ..http.call_state import CallState
from ..http.request import Request
from ..http.transport import Reply
from .arguments import asked
from .rest_calls import Operation, RestCalls, split_tinker_path

__all__ = ["StoredToday"]


class StoredToday(RestCalls):
    """Operations that a server of level 0.7.0 answers with 404, a NotFoundError."""

    def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: Optional[int], *, timeout: Optional[float] = None
    ) -> None:
        """How long a checkpoint is kept from now on. PUT .../checkpoints/{id}/ttl.

        Args:
            ttl_seconds: 3600 to ten years; None: for ever.
        """
        self._run("set_checkpoint_ttl_from_tinker_path", self._ttl(tinker_path, ttl_seconds), timeout)

    def submit_set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: Optional[int]
    ) -> Future[None]:
        """:meth:`set_checkpoint_ttl_from_tinker_path`, without waiting."""
        return self._submit("set_checkpoint_ttl_from_tinker_path", self._ttl(tinker_path, ttl_seconds))

    def _ttl(self, tinker_path: str, ttl_seconds: Optional[int]) -> Operation[None]:
        asked(ttl_seconds=ttl_seconds)
        run, checkpoint = split_tinker_path(tinker_path)
        parts = {"run": run, "checkpoint_path": checkpoint}
        return _silent(self._put("checkpoint_ttl", parts, {"ttl_seconds": ttl_seconds}, Reply))

    def assign_session_project(
        self, session_id: str, project_id: str, *, timeout: Optional[float] = None
    ) -> None:
        """Put a session, with its runs, into a project. PUT /api/v1/sessions/{id}/project."""
        self._run("assign_session_project", self._project(session_id, project_id), timeout)

    def submit_assign_session_project(self, session_id: str, project_id: str) -> Future[None]:
        """:meth:`assign_session_project`, without waiting."""
        return self._submit("assign_session_project", self._project(session_id, project_id))

    def _project(self, session_id: str, project_id: str) -> Operation[None]:
        _text("project_id", project_id)
        parts = {"session": session_id}
        return _silent(self._put("session_project", parts, {"project_id": project_id}, Reply))

    def copy_weights(
        self,
        path: str,
        destination_project_id: Optional[str] = None,
        *,
        ttl_seconds: Optional[int] = None,
        weights_access_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> str:
        """Copy a checkpoint into a run of its own, and return the copy's path. POST /api/v1/copy_weights.

        All retries carry one key, so that there is one copy.

        Args:
            path: ``tinker://RUN/weights/NAME``.
            destination_project_id: The project the copy is put in; None: a run of this session.
            ttl_seconds: How long the copy is kept, 3600 to ten years; None: for ever.
            weights_access_token: Opens weights of another account; a secret, which is in no log.
        """
        copy = self._copy(path, destination_project_id, ttl_seconds, weights_access_token)
        return self._run("copy_weights", copy, timeout)

    def submit_copy_weights(
        self,
        path: str,
        destination_project_id: Optional[str] = None,
        *,
        ttl_seconds: Optional[int] = None,
        weights_access_token: Optional[str] = None,
    ) -> Future[str]:
        """:meth:`copy_weights`, without waiting."""
        copy = self._copy(path, destination_project_id, ttl_seconds, weights_access_token)
        return self._submit("copy_weights", copy)

    def _copy(
        self, path: str, project: Optional[str], ttl_seconds: Optional[int], token: Optional[str]
    ) -> Operation[str]:
        split_tinker_path(path)
        for name, value in (("destination_project_id", project), ("weights_access_token", token)):
            if value is not None:
                _text(name, value)
        body = {"source_path": path, **asked(destination_project_id=project, ttl_seconds=ttl_seconds)}
        if project is None:
            # Without a project the copy is a model of this session, with a number like any other.
            body["session_id"] = self._source.session_id
            body["model_seq_id"] = self._session.next_number("model_seq_id")
        headers = {"X-Tinker-Weights-Access-Token": token} if token else {}
        key = str(uuid.uuid4())

        def copy(call: CallState, deadline: Optional[float]) -> str:
            made: types.CopyWeightsResponse = self._session.call(
                Request(
                    "copy_weights", body, headers=headers, call=call, deadline=deadline, idempotency_key=key
                )
            )
            return made.tinker_path

        return copy

    def get_external_weights_urls(
        self, tinker_path: str, *, timeout: Optional[float] = None
    ) -> types.ExternalWeightsUrlsResponse:
        """Where the files of weights saved by ``save_weights_external`` can be fetched, and until when.

        GET .../checkpoints/{id}/external_weights_urls.
        """
        return self._run("get_external_weights_urls", self._urls(tinker_path), timeout)

    def submit_get_external_weights_urls(self, tinker_path: str) -> Future[types.ExternalWeightsUrlsResponse]:
        """:meth:`get_external_weights_urls`, without waiting."""
        return self._submit("get_external_weights_urls", self._urls(tinker_path))

    def _urls(self, tinker_path: str) -> Operation[types.ExternalWeightsUrlsResponse]:
        run, checkpoint = split_tinker_path(tinker_path)
        parts = {"run": run, "checkpoint_path": checkpoint}
        return self._get("external_weights_urls", parts, types.ExternalWeightsUrlsResponse)


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        shown = "a secret" if name == "weights_access_token" and isinstance(value, str) else repr(value)
        raise ValueError(f"{name} must be a text that is not empty, not {shown}")


def _silent(send: Operation[Reply]) -> Operation[None]:
    def change(call: CallState, deadline: Optional[float]) -> None:
        send(call, deadline)

    return change
