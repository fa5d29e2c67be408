"""One embedded server for all tests of the command line, and functions that run commands against it."""

from typing import Callable, Iterator

import pytest
from command_runs import KEY, Commands, Saved, variables
from scripted_server import Answer, ScriptedServer

from tinkex_sync import ServiceClient, types
from tinkex_sync.local import LocalServer


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    with LocalServer(api_key=KEY) as running:
        yield running


@pytest.fixture(scope="session")
def command(server: LocalServer) -> Commands:
    """Run a command as a process."""
    return Commands(variables(server.base_url))


@pytest.fixture(scope="session")
def save(server: LocalServer) -> Callable[..., Saved]:
    """Train one step and save the state under the given names."""
    tokens = list(b"hello hello hello")
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )

    def train_and_save(*names: str) -> Saved:
        with ServiceClient(base_url=server.base_url, api_key=KEY) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=4, user_metadata={"purpose": "test"})
            training.train_step([datum], "cross_entropy", types.AdamParams(learning_rate=1e-3))
            paths = [training.save_state(name).path for name in names]
            sampler = training.save_weights_for_sampler("sampler").path
            return Saved(training.model_id, service.session_id, paths, sampler)

    return train_and_save


@pytest.fixture(scope="session")
def saved(save: Callable[..., Saved]) -> Saved:
    """A run for tests that do not change it."""
    return save("first", "second")


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server with scripted responses on which a session can be created."""
    with ScriptedServer() as running:
        running.defaults["healthz"] = Answer(body={"status": "ok"})
        running.defaults["create_session"] = Answer(body={"session_id": "s-1"})
        yield running
