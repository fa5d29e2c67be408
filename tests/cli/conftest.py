"""One embedded server for all tests of the command line, and ways to run commands against it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import pytest

from tinkex_sync import ServiceClient
from tinkex_sync.byte_tokenizer import ByteTokenizer
from tinkex_sync.cli.texts import example
from tinkex_sync.local import LocalServer
from tinkex_sync.types import AdamParams

ROOT = Path(__file__).resolve().parents[2]
KEY = "cli-key"


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    with LocalServer(api_key=KEY) as running:
        yield running


def variables(base_url: str, key: str = KEY) -> Dict[str, str]:
    """The environment of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TINKE")}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {**environment, "TINKER_BASE_URL": base_url, "TINKER_API_KEY": key, "NO_PROXY": "*"}


class Commands:
    """Real processes of the command line."""

    def __init__(self, environment: Dict[str, str]) -> None:
        self.environment = environment

    def start(self, *arguments: Any, **options: Any) -> "subprocess.Popen[str]":
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        command = [sys.executable, "-m", "tinkex_sync", *map(str, arguments)]
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.Popen(command, text=True, encoding="utf-8", env=environment, **options)

    def __call__(
        self, *arguments: Any, given: str = "", **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run to the end."""
        with self.start(*arguments, stdin=subprocess.PIPE, **options) as process:
            out, err = process.communicate(given, timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def command(server: LocalServer) -> Commands:
    return Commands(variables(server.base_url))


class Saved(NamedTuple):
    """A run with checkpoints."""

    run_id: str
    session_id: str
    training: List[str]
    sampler: str


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
