"""The weights of a model in training: saved, loaded, and sampled from."""

from __future__ import annotations

from typing import Callable, Optional

from .. import types
from ..errors import APIResponseValidationError
from ..futures import Future
from ..open_calls import OpenCall
from ..retry import RetryConfig
from .operations import LaneClient
from .sampling import SamplingClient
from .sampling_sessions import check_model_path, open_sampling_client

__all__ = ["WeightsClient"]


class WeightsClient(LaneClient):
    """The operations of a training client that save and load; each takes its turn in the lane."""

    def save_state(self, name: str, *, timeout: Optional[float] = None) -> types.SaveWeightsResponse:
        """Save weights and optimizer state under a name. POST /api/v1/save_weights."""
        return self._wait(lambda: self.submit_save_state(name), timeout)

    def submit_save_state(self, name: str) -> Future[types.SaveWeightsResponse]:
        """:meth:`save_state`, without waiting."""
        return self._submit_one("save_state", "save_weights", {"path": _named("name", name)})

    def load_state(self, path: str, *, timeout: Optional[float] = None) -> types.LoadWeightsResponse:
        """Load weights from a ``tinker://`` path, with a fresh optimizer. POST /api/v1/load_weights."""
        return self._wait(lambda: self.submit_load_state(path), timeout)

    def submit_load_state(self, path: str) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state`, without waiting."""
        return self._submit_one(
            "load_state", "load_weights", {"path": _named("path", path), "optimizer": False}
        )

    def load_state_with_optimizer(
        self, path: str, *, timeout: Optional[float] = None
    ) -> types.LoadWeightsResponse:
        """Load weights and optimizer state from a ``tinker://`` path. POST /api/v1/load_weights."""
        return self._wait(lambda: self.submit_load_state_with_optimizer(path), timeout)

    def submit_load_state_with_optimizer(self, path: str) -> Future[types.LoadWeightsResponse]:
        """:meth:`load_state_with_optimizer`, without waiting."""
        return self._submit_one(
            "load_state_with_optimizer", "load_weights", {"path": _named("path", path), "optimizer": True}
        )

    def save_weights_for_sampler(
        self, name: str, *, timeout: Optional[float] = None
    ) -> types.SaveWeightsForSamplerResponse:
        """Save the weights for sampling, under a name. POST /api/v1/save_weights_for_sampler."""
        return self._wait(lambda: self.submit_save_weights_for_sampler(name), timeout)

    def submit_save_weights_for_sampler(self, name: str) -> Future[types.SaveWeightsForSamplerResponse]:
        """:meth:`save_weights_for_sampler`, without waiting."""
        return self._submit_one(
            "save_weights_for_sampler", "save_weights_for_sampler", {"path": _named("name", name)}, _saved
        )

    def save_weights_and_get_sampling_client(
        self,
        name: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Save the weights and sample from them: under ``name`` if given, else for this session only."""
        return self._wait(
            lambda: self.submit_save_weights_and_get_sampling_client(name, retry_config), timeout
        )

    def submit_save_weights_and_get_sampling_client(
        self, name: Optional[str] = None, retry_config: Optional[RetryConfig] = None
    ) -> Future[SamplingClient]:
        """:meth:`save_weights_and_get_sampling_client`, without waiting."""
        session = self._session
        operation = "save_weights_and_get_sampling_client"
        if name is not None:

            def open_named(saved: types.SaveWeightsForSamplerResponseInternal) -> SamplingClient:
                return open_sampling_client(
                    session, model_path=_saved(saved).path, base_model=None, retry_config=retry_config
                )

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
                return open_sampling_client(
                    session, model_path=saved.path, base_model=None, retry_config=retry_config
                )
            return SamplingClient(session, saved.sampling_session_id, retry_config=retry_config)

        number = session.next_number("sampling_session_seq_id")
        return self._submit_one(
            operation, "save_weights_for_sampler", {"sampling_session_seq_id": number}, open_ephemeral
        )

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Optional[RetryConfig] = None,
        *,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Sample from saved weights, named by a ``tinker://`` path. POST /api/v1/create_sampling_session."""
        return self._run("create_sampling_client", self._opening(model_path, retry_config), timeout)

    def submit_create_sampling_client(
        self, model_path: str, retry_config: Optional[RetryConfig] = None
    ) -> Future[SamplingClient]:
        """:meth:`create_sampling_client`, without waiting."""
        check_model_path(model_path)
        return self._submit("create_sampling_client", self._opening(model_path, retry_config))

    def _opening(
        self, model_path: str, retry_config: Optional[RetryConfig]
    ) -> Callable[[OpenCall, Optional[float]], SamplingClient]:
        return lambda call, deadline: open_sampling_client(
            self._session,
            model_path=model_path,
            base_model=None,
            retry_config=retry_config,
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
