"""The weights of a model in training: saved, loaded, and sampled from."""

from __future__ import annotations

from typing import Callable, Literal, Mapping, Optional, Sequence

from .. import types
from ..errors import APIResponseValidationError
from ..futures import Future
from ..http.call_state import CallState
from ..http.retry import RetryConfig
from ..training.lane import LaneClient
from ..validation import check_model_path
from .arguments import asked
from .sampling import SamplingClient, open_sampling_client

__all__ = ["WeightsClient"]


class WeightsClient(LaneClient):
    """The operations of a training client that save and load; each takes its turn in the lane."""

    def save_state(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        overwrite: bool = False,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.SaveWeightsResponse:
        """Save weights and optimizer state under a name. POST /api/v1/save_weights.

        Args:
            ttl_seconds: The server deletes it after so many seconds, 3600 to ten years; None: never.
            overwrite: Replace what is there under that name.
            user_metadata: Labels stored with it.

        The last three are of the protocol after 0.7.0; what is not given is not sent.
        """
        return self._wait(
            lambda: self.submit_save_state(name, ttl_seconds, overwrite, user_metadata), timeout
        )

    def submit_save_state(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        overwrite: bool = False,
        user_metadata: Optional[Mapping[str, str]] = None,
    ) -> Future[types.SaveWeightsResponse]:
        """:meth:`save_state`, without waiting."""
        fields = {"path": _named("name", name), **asked(ttl_seconds=ttl_seconds, user_metadata=user_metadata)}
        if overwrite:
            fields["overwrite"] = True
        return self._submit_one("save_state", "save_weights", fields)

    def load_state(
        self, path: str, weights_access_token: Optional[str] = None, *, timeout: Optional[float] = None
    ) -> types.LoadWeightsResponse:
        """Load weights from a ``tinker://`` path, with a fresh optimizer. POST /api/v1/load_weights.

        Args:
            weights_access_token: Opens weights of another account; of the protocol after 0.7.0.
        """
        return self._wait(lambda: self.submit_load_state(path, weights_access_token), timeout)

    def submit_load_state(
        self, path: str, weights_access_token: Optional[str] = None
    ) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state`, without waiting."""
        return self._load("load_state", path, weights_access_token, optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: Optional[str] = None, *, timeout: Optional[float] = None
    ) -> types.LoadWeightsResponse:
        """Load weights and optimizer state from a ``tinker://`` path. POST /api/v1/load_weights.

        Arguments as :meth:`load_state`.
        """
        return self._wait(lambda: self.submit_load_state_with_optimizer(path, weights_access_token), timeout)

    def submit_load_state_with_optimizer(
        self, path: str, weights_access_token: Optional[str] = None
    ) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state_with_optimizer`, without waiting."""
        return self._load("load_state_with_optimizer", path, weights_access_token, optimizer=True)

    def _load(
        self, operation: str, path: str, token: Optional[str], *, optimizer: bool
    ) -> Future[types.LoadWeightsResponse]:
        fields = {"path": _named("path", path), "optimizer": optimizer, **asked(weights_access_token=token)}
        return self._submit_one(operation, "load_weights", fields)

    def save_weights_for_sampler(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.SaveWeightsForSamplerResponse:
        """Save the weights for sampling, under a name. POST /api/v1/save_weights_for_sampler.

        Arguments as :meth:`save_state`.
        """
        return self._wait(
            lambda: self.submit_save_weights_for_sampler(name, ttl_seconds, user_metadata), timeout
        )

    def submit_save_weights_for_sampler(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        user_metadata: Optional[Mapping[str, str]] = None,
    ) -> Future[types.SaveWeightsForSamplerResponse]:
        """:meth:`save_weights_for_sampler`, without waiting."""
        fields = {"path": _named("name", name), **asked(ttl_seconds=ttl_seconds, user_metadata=user_metadata)}
        return self._submit_one("save_weights_for_sampler", "save_weights_for_sampler", fields, _saved)

    def save_weights_external(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        age_encryption_recipients: Optional[Sequence[str]] = None,
        *,
        timeout: Optional[float] = None,
    ) -> types.SaveWeightsExternalResponse:
        """Save the weights for download, under a name. POST /api/v1/save_weights_external; not in 0.7.0.

        Args:
            ttl_seconds: As :meth:`save_state`.
            age_encryption_recipients: Public keys of age, for which the files are encrypted.
        """
        return self._wait(
            lambda: self.submit_save_weights_external(name, ttl_seconds, age_encryption_recipients), timeout
        )

    def submit_save_weights_external(
        self,
        name: str,
        ttl_seconds: Optional[int] = None,
        age_encryption_recipients: Optional[Sequence[str]] = None,
    ) -> Future[types.SaveWeightsExternalResponse]:
        """:meth:`save_weights_external`, without waiting."""
        recipients = None if age_encryption_recipients is None else list(age_encryption_recipients)
        fields = {
            "path": _named("name", name),
            **asked(ttl_seconds=ttl_seconds, age_encryption_recipients=recipients),
        }
        if recipients is not None and not (recipients and all(isinstance(one, str) for one in recipients)):
            raise ValueError(
                f"age_encryption_recipients must be public keys, not {age_encryption_recipients!r}"
            )
        return self._submit_one("save_weights_external", "save_weights_external", fields)

    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        kind: Optional[Literal["snapshot", "inflight"]] = None,
        record_stability_info: bool = False,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Save the weights and sample from them: under ``name`` if given, else for this session only.

        Args:
            kind: "inflight": samples on their way go on with the new weights; None leaves it to the server. Of the
                protocol after 0.7.0, and for weights without a name only.
            record_stability_info: As for :meth:`ServiceClient.create_sampling_client`.
        """
        return self._wait(
            lambda: self.submit_save_weights_and_get_sampling_client(
                name, retry_config, kind, record_stability_info
            ),
            timeout,
        )

    def submit_save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        kind: Optional[Literal["snapshot", "inflight"]] = None,
        record_stability_info: bool = False,
    ) -> Future[SamplingClient]:
        """:meth:`save_weights_and_get_sampling_client`, without waiting."""
        session = self._session
        operation = "save_weights_and_get_sampling_client"
        if kind not in (None, "snapshot", "inflight") or (kind is not None and name is not None):
            raise ValueError(f"kind={kind!r}: give 'snapshot' or 'inflight', and no name; or leave it out")

        def open_saved(path: str) -> SamplingClient:
            return open_sampling_client(
                session,
                model_path=path,
                base_model=None,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            )

        if name is not None:

            def open_named(saved: types.SaveWeightsForSamplerResponseInternal) -> SamplingClient:
                return open_saved(_saved(saved).path)

            return self._submit_one(
                operation, "save_weights_for_sampler", {"path": _named("name", name)}, open_named
            )

        def open_ephemeral(saved: types.SaveWeightsForSamplerResponseInternal) -> SamplingClient:
            if not saved.sampling_session_id and not saved.path:
                raise APIResponseValidationError(
                    "the server saved the weights and named no sampling session", path="sampling_session_id"
                )
            if not saved.sampling_session_id:
                # Some servers save under a name of their own instead.
                return open_saved(str(saved.path))
            return SamplingClient(
                session,
                saved.sampling_session_id,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            )

        number = session.next_number("sampling_session_seq_id")
        return self._submit_one(
            operation,
            "save_weights_for_sampler",
            {"sampling_session_seq_id": number, **asked(kind=kind)},
            open_ephemeral,
        )

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Sample from saved weights, named by a ``tinker://`` path. POST /api/v1/create_sampling_session.

        Args:
            record_stability_info: As for :meth:`ServiceClient.create_sampling_client`.
        """
        opening = self._opening(model_path, retry_config, record_stability_info)
        return self._run("create_sampling_client", opening, timeout)

    def submit_create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        record_stability_info: bool = False,
    ) -> Future[SamplingClient]:
        """:meth:`create_sampling_client`, without waiting."""
        check_model_path(model_path)
        opening = self._opening(model_path, retry_config, record_stability_info)
        return self._submit("create_sampling_client", opening)

    def _opening(
        self, model_path: str, retry_config: Optional[RetryConfig], record_stability_info: bool
    ) -> Callable[[CallState, Optional[float]], SamplingClient]:
        return lambda call, deadline: open_sampling_client(
            self._session,
            model_path=model_path,
            base_model=None,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
            call=call,
            deadline=deadline,
        )


def _named(what: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a text that is not empty, not {value!r}")
    return value


def _saved(
    saved: types.SaveWeightsForSamplerResponseInternal,
) -> types.SaveWeightsForSamplerResponse:
    if not saved.path:
        raise APIResponseValidationError("the server saved the weights and named no path", path="path")
    return types.SaveWeightsForSamplerResponse(path=saved.path)
