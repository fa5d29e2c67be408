"""One embedded server for all tests of the command line, and ways to run commands against it."""

from typing import Callable, Iterator

import pytest
from command_runs import KEY, Commands, Saved, variables

from tinkex_sync import ServiceClient
from tinkex_sync.cli.files import example
from tinkex_sync.local import LocalServer
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer
from tinkex_sync.types import AdamParams


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    with LocalServer(api_key=KEY) as running:
        yield running


@pytest.fixture(scope="session")
def command(server: LocalServer) -> Commands:
    return Commands(variables(server.base_url))


@pytest.fixture(scope="session")
def save(server: LocalServer) -> Callable[..., Saved]:
    """Train a little and save under the names given."""

    def make(*names: str) -> Saved:
        datum = example(ByteTokenizer().encode("hello hello hello"), [1.0] * 17)
        with ServiceClient(base_url=server.base_url, api_key=KEY) as service:
            training = service.create_lora_training_client(
                "tinkex/tiny", rank=4, user_metadata={"purpose": "test"}
            )
            training.train_step([datum], "cross_entropy", AdamParams(learning_rate=1e-3))
            paths = [training.save_state(name).path for name in names]
            sampler = training.save_weights_for_sampler("sampler").path
            return Saved(training.model_id, service.session_id, paths, sampler)

    return make


@pytest.fixture(scope="session")
def saved(save: Callable[..., Saved]) -> Saved:
    """For tests that only look."""
    return save("first", "second")
