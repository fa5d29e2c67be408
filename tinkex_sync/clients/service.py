"""The service client, which opens a session and makes the other clients."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Iterable, List, Mapping, Optional

from .. import types
from ..concurrency import interrupt_closing
from ..config import LOCAL_KEY, Config
from ..errors import ConfigError, MissingExtraError
from ..futures import Operation
from ..heartbeat import start_heartbeat
from ..http.auth import check_credential
from ..http.call_state import CallState, Unfinished
from ..http.endpoints import OPERATIONS
from ..http.request import Request
from ..http.retry import RetryConfig
from ..plugins.queue_log import QueueLog
from ..plugins.registry import Observers
from ..polling.poller import ServerFuture, poll
from ..polling.queue_states import QueueStates
from ..session import Session
from ..telemetry import Telemetry
from ..validation import check_count, check_text
from .base import CallOperation, Client, blocking, request_operation, submitted
from .model_creation import ModelFromCheckpoint, NewModel
from .rest import RestClient
from .sampling import NewSampler, SamplingClient
from .training import TrainingClient

#: Operations whose results are those of an endpoint with another name.
_ENDPOINT_OF_OPERATION = {
    "sample": "asample",
    "compute_logprobs": "asample",
    "save_state": "save_weights",
    "load_state": "load_weights",
    "load_state_with_optimizer": "load_weights",
    "create_lora_training_client": "create_model",
}


class ServiceClient(Client):
    """Opens a session on a server and makes the other clients. Use it in a ``with`` statement. Thread-safe.

    The clients that it makes share its session, connections and throttle. They end when it is closed. Leaving the
    ``with`` block normally first waits until all submitted operations are sent (``Config.drain`` seconds at most);
    leaving it by an exception does not wait.

    Args:
        user_metadata: Labels that the server stores with the session.
        api_key: Default: the environment variable TINKER_API_KEY.
        base_url: Default: TINKER_BASE_URL, else the hosted service. "local" starts the embedded server.
        config: All settings; the other arguments replace its values.
        plugins: Observers to add to those found by entry point: modules, instances or classes.
        strict_plugins: Raise errors of plugins instead of logging them; None: TINKEX_SYNC_PLUGINS_STRICT.
        load_plugins: Load plugins by entry point; None: unless TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD is set.
        settings: Fields of :class:`Config` by name.

    Raises:
        ConfigError: A setting is invalid or missing.
        APIConnectionError: There was no connection to the server within 15 s.
        AuthenticationError, APIStatusError: The server rejected the session.
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
        if user_metadata is not None and not isinstance(user_metadata, Mapping):
            raise TypeError(
                f"user_metadata, the first argument, must be a dict of labels, not {type(user_metadata).__name__}:"
                " use ServiceClient(base_url=..., api_key=...)"
            )
        given = {"api_key": api_key, "base_url": base_url, **settings}
        if config is None:
            config = Config.from_env(**given)
        else:
            changes = {name: value for name, value in given.items() if value is not None}
            config = config.replace(**changes) if changes else config
        self.config = resolve_endpoint(config)
        telemetry = Telemetry(self.config) if self.config.telemetry else None
        queue_log = QueueLog(self.config.clock)
        #: The session's plugins; ``register`` adds more.
        self.plugins = Observers(
            plugins,
            autoload=load_plugins,
            strict=strict_plugins,
            builtin=[queue_log] if telemetry is None else [queue_log, telemetry],
            clock=self.config.clock,
            hook_timeout=self.config.hook_timeout,
        )
        session = _open_session(self.config, self.plugins, user_metadata, telemetry)
        super().__init__(session, session.source)

    @property
    def session_id(self) -> str:
        """The server's id of the session."""
        return self.session.session_id

    def __repr__(self) -> str:
        return f"<ServiceClient {self.session.session_id!r} at {self.session.transport.base_url}>"

    def __enter__(self) -> ServiceClient:
        interrupt_closing.enter(self.session)
        return self

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        session = self.session
        interrupt_closing.leave(session)
        if exc_type is None:
            outcome = "interrupted"
            try:
                if not session.forked:
                    session.drain(self.config.drain)
                outcome = "success"
            finally:
                # Also after an interrupt of the wait, which otherwise would leave the session open.
                session.close(outcome)
        elif issubclass(exc_type, Exception):
            session.close("errored", f"{exc_type.__name__}: {exc}")
        else:
            session.close("interrupted")

    def close(self) -> List[Unfinished]:
        """End the session within a second. Every waiting call raises ClosedError. Idempotent; any thread may call it.

        Returns:
            The calls that had no result, with their request ids. One WARNING contains their number.
        """
        return self.session.close()

    @blocking
    def get_server_capabilities(
        self, *, timeout: Optional[float] = None
    ) -> Operation[types.GetServerCapabilitiesResponse]:
        """Return the base models that the server supports. GET /api/v1/get_server_capabilities."""
        return request_operation(self, "get_server_capabilities", Request("get_server_capabilities"))

    submit_get_server_capabilities = submitted(get_server_capabilities)

    # Training clients

    @blocking
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
    ) -> Operation[TrainingClient]:
        """Create a LoRA adapter on a base model. POST /api/v1/create_model.

        Args:
            base_model: The model's name, such as "Qwen/Qwen3-8B".
            rank: Rank of the adapter's matrices, 0 or more; servers have limits of their own.
            seed: Seed of the adapter's initial values; None: the server chooses one.
            train_mlp, train_attn, train_unembed: The layers that get adapters; at least one must be True.
            user_metadata: Labels that the server stores with the training run.
            optimizer: The model's optimizer; None: AdamW. 0.38.0.
            timeout: Seconds to wait for the model; None: ``Config.timeout``.

        Raises:
            ValueError: An argument is invalid. Nothing was sent.
            BadRequestError, NotFoundError, RequestFailedError: For example, the base model is unknown.
            DeadlineExceeded: The model was not created within ``timeout`` seconds.
        """
        config = types.LoraConfig(
            check_count("rank", rank), seed, bool(train_unembed), bool(train_mlp), bool(train_attn)
        )
        model = NewModel(base_model, config, user_metadata, optimizer)
        return CallOperation(self, "create_lora_training_client", partial(model.create, self.session))

    submit_create_lora_training_client = submitted(create_lora_training_client)

    @blocking
    def create_training_client_from_state(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
        optimizer: Optional[types.OptimizerConfig] = None,
        timeout: Optional[float] = None,
    ) -> Operation[TrainingClient]:
        """Create an adapter with the weights of a checkpoint and a new optimizer.

        POST /api/v1/load_weights, which creates the model on servers of 0.38.0. Other servers get three requests:
        weights_info, create_model and load_weights.

        Args:
            path: Path of the checkpoint: ``tinker://RUN/weights/NAME``.
            user_metadata: Labels that the server stores with the training run.
            base_model: The base model; None: that of the checkpoint.
            weights_access_token: Gives access to weights of another account. A secret. 0.38.0.
            optimizer: The model's optimizer; None: AdamW. 0.38.0.
            timeout: Seconds to wait for the model; None: ``Config.timeout``.

        Raises:
            ValueError: An argument is invalid, or the checkpoint is not a LoRA checkpoint.
            NotFoundError, RequestFailedError: For example, the checkpoint does not exist.
        """
        model = ModelFromCheckpoint(path, user_metadata, False, base_model, weights_access_token, optimizer)
        return CallOperation(self, "create_training_client_from_state", partial(model.create, self.session))

    submit_create_training_client_from_state = submitted(create_training_client_from_state)

    @blocking
    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        user_metadata: Optional[Mapping[str, str]] = None,
        *,
        base_model: Optional[str] = None,
        weights_access_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Operation[TrainingClient]:
        """Create an adapter with the weights and the optimizer state of a checkpoint, to continue its training.

        Arguments, requests and errors as for :meth:`create_training_client_from_state`.
        """
        model = ModelFromCheckpoint(path, user_metadata, True, base_model, weights_access_token)
        name = "create_training_client_from_state_with_optimizer"
        return CallOperation(self, name, partial(model.create, self.session))

    submit_create_training_client_from_state_with_optimizer = submitted(
        create_training_client_from_state_with_optimizer
    )

    # Sampling and REST clients

    @blocking
    def create_sampling_client(
        self,
        model_path: Optional[str] = None,
        base_model: Optional[str] = None,
        retry_config: Optional[RetryConfig] = None,
        *,
        record_stability_info: bool = False,
        timeout: Optional[float] = None,
    ) -> Operation[SamplingClient]:
        """Create a client that samples from saved weights or from a base model.

        POST /api/v1/create_samplingsession.

        Args:
            model_path: Path of the weights: ``tinker://RUN/sampler_weights/NAME``.
            base_model: Name of the base model, if there is no ``model_path``.
            retry_config: Limits of the client's samples; None: those of ``Config`` and of the server.
            record_stability_info: Request that the server records how reproducible its log probabilities are. 0.38.0.

        Raises:
            ValueError: Neither is given, or ``model_path`` does not start with ``tinker://``.
        """
        sampler = NewSampler(model_path, base_model, retry_config, record_stability_info)
        return CallOperation(self, "create_sampling_client", partial(sampler.open, self.session))

    submit_create_sampling_client = submitted(create_sampling_client)

    def create_rest_client(self) -> RestClient:
        """Return a client for training runs, checkpoints, sessions and samplers. Sends no request."""
        made = RestClient(self.session)
        self.session.report_client(made.source, None)
        return made

    # The session

    def status(self) -> Dict[str, Any]:
        """Return the current state of the session. Sends no request. Times are in seconds.

        Returns:
            A dict with these keys:

            - ``session_id``, ``base_url``;
            - ``heartbeat_age``: time since the last successful heartbeat;
            - ``open``: one dict per call without a result (operation, client, id, age, phase, sent, request_id,
              queue_state, queue_state_reason, polls);
            - ``protocol``: the protocol version, the server's configuration, the limits in force;
            - ``billing``: None, or since when calls wait for payment;
            - ``throttle``: dispatches and bytes in use, backoff, pacing;
            - ``transport``: connections and transferred bytes;
            - ``plugins``: the rows of ``plugins.report()``.
        """
        session = self.session
        now = session.clock.time()
        return {
            "session_id": session.session_id,
            "base_url": session.transport.base_url,
            "heartbeat_age": None if session.last_heartbeat is None else now - session.last_heartbeat,
            "open": [call.status(now) for call in session.open_calls()],
            "protocol": session.negotiation.status(),
            "billing": session.payment_wait.status(),
            "throttle": session.throttle.status(),
            "transport": session.transport.status(),
            "plugins": session.observers.report(),
        }

    @blocking
    def resume_future(self, request_id: str, kind: str, *, timeout: Optional[float] = None) -> Operation[Any]:
        """Return the result of an operation that another process submitted. POST /api/v1/retrieve_future.

        Args:
            request_id: From ``Future.request_id`` or from :meth:`close`.
            kind: The operation: "forward", "forward_backward", "optim_step", "save_state", "load_state",
                "save_weights_for_sampler", "save_weights_external", "sample", "compute_logprobs" or
                "create_lora_training_client".

        Raises:
            ValueError: An argument is invalid.
            NotFoundError, PromiseExpiredError: The server no longer has the result.
        """
        promise = _server_future(request_id, kind)

        def resume(call: CallState, deadline: Optional[float]) -> Any:
            states = QueueStates(self.session.observers, self.session.clock)
            return poll(self.session, promise, call, states=states, deadline=deadline)

        return CallOperation(self, "resume_future", resume)

    submit_resume_future = submitted(resume_future)


def _open_session(
    config: Config, observers: Observers, user_metadata: Optional[Mapping[str, Any]], telemetry: Optional[Telemetry]
) -> Session:
    session = Session(config, observers)
    try:
        session.open(user_metadata)
        start_heartbeat(session)
        # The user may have disabled the plugin by name.
        if telemetry is not None and observers.is_active(telemetry):
            telemetry.restore(session.negotiation.negotiated)
            session.telemetry = telemetry
    except BaseException:
        session.close()
        raise
    return session


def resolve_endpoint(config: Config) -> Config:
    """Return settings that are complete enough to connect: credentials, and the address of the embedded server.

    Raises:
        ConfigError: There are no credentials, or they cannot be sent in a header.
        MissingExtraError: ``base_url`` is "local" and the embedded server is not installed.
    """
    if config.base_url == "local":
        try:
            from ..local import local_base_url
        except ImportError as error:
            raise MissingExtraError(
                f'base_url="local" needs the embedded server: pip install "tinkex-sync[local]" ({error})'
            ) from error
        return config.replace(base_url=local_base_url(), api_key=config.api_key or LOCAL_KEY)
    if config.api_key is None and config.credential_command is None:
        raise ConfigError('no API key: give api_key= or set TINKER_API_KEY (base_url="local" needs none)')
    check_credential(config.api_key)
    return config


def _server_future(request_id: str, kind: str) -> ServerFuture:
    name = _ENDPOINT_OF_OPERATION.get(kind, kind)
    if name not in OPERATIONS:
        known = sorted({*OPERATIONS, *_ENDPOINT_OF_OPERATION} - {"asample"})
        raise ValueError(f"kind must be one of {', '.join(known)}, got {kind!r}")
    return ServerFuture(check_text("request_id", request_id), name)
