"""Training data that is closed at the end of its test."""

import contextlib
from typing import Callable, Iterator

import pytest

from tinkex_sync.cli.train.data import Data, read_data


@pytest.fixture
def read() -> Iterator[Callable[..., Data]]:
    """Read data as ``read_data`` does."""
    with contextlib.ExitStack() as opened:
        yield lambda *arguments: opened.enter_context(read_data(*arguments))
