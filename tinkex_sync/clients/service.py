"""The service client: opens a session and makes the other clients."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

from .. import types
from ..config import Config
from ..futures import Future, Operation
from ..http.call_state import CallState, Unfinished
from ..http.request import Request
from ..http.retry import RetryConfig
from ..plugins.queue_log import QueueLog
from ..plugins.registry import Observers
from ..polling.poller import Promise, poll
from ..polling.queue_states import QueueStates
from ..session import Session
from ..telemetry import Telemetry
from .arguments import model_body, promise_of, ready
from .base import Client, blocking, request_operation, submitted
from .model_creation import Checkpointed, create_model
from .rest import RestClient
from .sampling import SamplingClient
from .sampling_sessions import open_sampling_client
from .training import TrainingClient

__all__ = ["ServiceClient"]


class ServiceClient(Client):
    """A session on a server, and the way to everything else. Use it in a ``with`` statement.

    Args:
        user_metadata: Labels stored with the session.
        api_key: Default: TINKER_API_KEY.
        base_url: Default: TINKER_BASE_URL, else the hosted service; "local" starts the embedded server.
        config: All settings at once; arguments given beside it win.
        plugins: Observers beside those found by entry point: modules, instances or classes.
        settings: Fields of :class:`Config` by name.

    Raises:
        ConfigError: a setting is wrong or missing; the text names it.
        APIConnectionError: the server cannot be reached (after 15 s).
        AuthenticationError, APIStatusError: the server refuses us; the text says what to do.
    """

    def __init__(
        self,
        user_metadata: Optional[Mapping[str, Any]] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        config: Optional[Config] = None,
        plugins: Iterable[object] = (),
        strict_plugins: Optional[bool] = None,
        load_plugins: Optional[bool] = None,
        **settings: Any,
    ) -> None:
        given = {"api_key": api_key, "base_url": base_url, **settings}
        if config is None:
            config = Config.from_env(**given)
        else:
            changes = {name: value for name, value in given.items() if value is not None}
            config = config.replace(**changes) if changes else config
        self.config = ready(config)
        telemetry = Telemetry(self.config) if self.config.telemetry else None
        builtin: List[object] = [QueueLog(self.config.clock)]
        if telemetry is not None:
            builtin.append(telemetry)
        observers = Observers(
            plugins,
            autoload=load_plugins,
            strict=strict_plugins,
            builtin=builtin,
            clock=self.config.clock,
        )
        session = Session(self.config, observers)
        try:
            session.open(user_metadata)
            # The plugin may be disabled by name.
            if telemetry is not None and observers.is_active(telemetry):
                telemetry.adopt(session.protocol.known())
                session.telemetry = telemetry
        except BaseException:
            session.close()
            raise
        super().__init__(session, session.source)
        #: The plugins, and a way to add more while it runs.
        self.plugins = observers

    @property
    def session_id(self) -> str:
        """The server's id of the session."""
        return self._session.session_id

    def __repr__(self) -> str:
        return f"<ServiceClient {self._session.session_id!r} at {self._session.transport.base_url}>"

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        session = self._session
        if exc_type is None:
            if not session.forked:
                session.drain(self.config.drain)
            session.close()
        elif issubclass(exc_type, Exception):
            session.close("errored", f"{exc_type.__name__}: {exc}")
        else:
            session.close("interrupted")

    def close(self) -> List[Unfinished]:
        """End the session and every wait, within a second; idempotent, from any thread.

        Returns:
            The calls that had no result yet, with their request ids; they are also counted in one WARNING.
        """
        return self._session.close()

    @blocking
    def get_server_capabilities(
        self, *, timeout: Optional[float] = None
    ) -> Operation[types.GetServerCapabilitiesResponse]:
        """Return the base models that the server supports. GET /api/v1/get_server_capabilities."""
        return request_operation(self, "get_server_capabilities", Request("get_server_capabilities"))

    submit_get_server_capabilities = submitted(get_server_capabilities)

    # Training clients

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: Optional[int] = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        optimizer: Optional[types.OptimizerConfig] = None,
        timeout: Optional[float] = None,
    ) -> TrainingClient:
        """Make a new LoRA adapter on a base model. POST /api/v1/create_model.

        Args:
            rank: Of the adapter's matrices, at least 1.
            seed: Of the adapter's first values; None leaves it to the server.
            train_mlp, train_attn, train_unembed: Which layers get adapters; at least one.
            user_metadata: Labels stored with the run.
            optimizer: Of the protocol after 0.7.0; None: AdamW, and nothing is sent.

        Raises:
            ValueError: an argument is wrong; nothing was sent.
            BadRequestError, NotFoundError, RequestFailedError: for instance, the base model is not known.
        """
        body = model_body(
            base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer
        )
        return self._run(
            "create_lora_training_client",
            lambda call, deadline: create_model(self._session, body, call, deadline),
            timeout,
        )

    def submit_create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: Optional[int] = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        optimizer: Optional[types.OptimizerConfig] = None,
    ) -> Future[TrainingClient]:
        """:meth:`create_lora_training_client`, without waiting."""
        body = model_body(
            base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer
        )
        return self._submit(
            "create_lora_training_client",
            lambda call, deadline: create_model(self._session, body, call, deadline),
        )

    def create_training_client_from_state(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
        optimizer: Optional[types.OptimizerConfig] = None,
        timeout: Optional[float] = None,
    ) -> TrainingClient:
        """A new adapter with the weights of a checkpoint and a fresh optimizer.

        POST /api/v1/weights_info, create_model, load_weights; load_weights alone where the server takes that.

        Args:
            path: ``tinker://RUN/weights/NAME``.
            base_model: Another base model than the checkpoint's.
            weights_access_token: Opens weights of another account; of the protocol after 0.7.0.
            optimizer: As for :meth:`create_lora_training_client`.
        """
        wanted = Checkpointed(path, user_metadata, False, base_model, weights_access_token, optimizer)
        return self._run("create_training_client_from_state", self._making(wanted), timeout)

    def submit_create_training_client_from_state(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
        optimizer: Optional[types.OptimizerConfig] = None,
    ) -> Future[TrainingClient]:
        """:meth:`create_training_client_from_state`, without waiting."""
        wanted = Checkpointed(path, user_metadata, False, base_model, weights_access_token, optimizer)
        return self._submit("create_training_client_from_state", self._making(wanted))

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> TrainingClient:
        """As :meth:`create_training_client_from_state`, with the optimizer's state too: training goes on as it was."""
        wanted = Checkpointed(path, user_metadata, True, base_model, weights_access_token)
        return self._run("create_training_client_from_state_with_optimizer", self._making(wanted), timeout)

    def submit_create_training_client_from_state_with_optimizer(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
    ) -> Future[TrainingClient]:
        """:meth:`create_training_client_from_state_with_optimizer`, without waiting."""
        wanted = Checkpointed(path, user_metadata, True, base_model, weights_access_token)
        return self._submit("create_training_client_from_state_with_optimizer", self._making(wanted))

    def _making(self, wanted: Checkpointed) -> Callable[[CallState, Optional[float]], TrainingClient]:
        checked = wanted.checked()
        return lambda call, deadline: checked.make(self._session, call, deadline)

    # What goes on

    def status(self) -> Dict[str, Any]:
        """What the session is doing now; makes no request. Times in seconds.

        Returns:
            A dict: ``session_id``, ``base_url``, ``heartbeat_age``, ``open`` (a dict for each call without a
            result: operation, client, age, phase, sent, request_id, queue_state, queue_state_reason, polls),
            ``protocol`` (wire, what the server announced, limits in force), ``billing`` (None, or since when calls
            wait for payment), ``throttle`` (slots and bytes in use, backoff, pace), ``transport``, ``plugins``.
        """
        session = self._session
        now = session.clock.time()
        return {
            "session_id": session.session_id,
            "base_url": session.transport.base_url,
            "heartbeat_age": None if session.last_heartbeat is None else now - session.last_heartbeat,
            "open": [call.status(now) for call in session.open_calls()],
            "protocol": session.protocol.status(),
            "billing": session.billing.status(),
            "throttle": session.throttle.status(),
            "transport": session.transport.status(),
            "plugins": session.observers.report(),
        }

    def resume_future(self, request_id: str, kind: str, *, timeout: Optional[float] = None) -> Any:
        """Fetch the result of a promise made to an earlier process. POST /api/v1/retrieve_future.

        Args:
            request_id: As given by ``Future.request_id`` or by :meth:`close`.
            kind: The operation: "forward", "forward_backward", "optim_step", "save_state", "load_state",
                "save_weights_for_sampler", "sample" or "create_model".

        Raises:
            NotFoundError, PromiseExpiredError: the server no longer has it.
        """
        promise = promise_of(request_id, kind)
        return self._run("resume_future", lambda call, end: self._resume(promise, call, end), timeout)

    def submit_resume_future(self, request_id: str, kind: str) -> Future[Any]:
        """:meth:`resume_future`, without waiting."""
        promise = promise_of(request_id, kind)
        return self._submit("resume_future", lambda call, end: self._resume(promise, call, end))

    def _resume(self, promise: Promise, call: CallState, deadline: Optional[float]) -> Any:
        session = self._session
        states = QueueStates(session.observers, session.clock)
        return poll(session, promise, call, states=states, deadline=deadline)

    # Sampling and REST clients

    def create_sampling_client(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        *,
        record_stability_info: bool = False,
        timeout: Optional[float] = None,
    ) -> SamplingClient:
        """Sample from saved weights or from a base model. POST /api/v1/create_sampling_session.

        Args:
            record_stability_info: Ask a server of today's protocol to keep what it needs to study how stable its
                numbers are.

        Raises:
            ValueError: neither is given, or ``model_path`` does not start with ``tinker://``.
        """
        return self._run(
            "create_sampling_client",
            lambda call, deadline: open_sampling_client(
                self._session,
                model_path=model_path,
                base_model=base_model,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
                call=call,
                deadline=deadline,
            ),
            timeout,
        )

    def submit_create_sampling_client(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        *,
        record_stability_info: bool = False,
    ) -> Future[SamplingClient]:
        """:meth:`create_sampling_client`, without waiting."""
        return self._submit(
            "create_sampling_client",
            lambda call, deadline: open_sampling_client(
                self._session,
                model_path=model_path,
                base_model=base_model,
                retry_config=retry_config,
                record_stability_info=record_stability_info,
                call=call,
                deadline=deadline,
            ),
        )

    def create_rest_client(self) -> RestClient:
        """For runs, checkpoints, sessions and samplers; makes no request."""
        return RestClient(self._session)
