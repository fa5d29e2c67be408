"""A server that numbers nothing, and a client of a model on it that sends chunks of two datums."""

import pytest
from imitations import NEITHER, Imitation, client, training


@pytest.fixture
def imitation():
    with Imitation(NEITHER) as running:
        yield running


@pytest.fixture
def imitation_service(imitation):
    # Closing does not wait for operations that a test leaves unsent.
    with client(imitation, max_chunk_datums=2, drain=0) as made:
        yield made


@pytest.fixture
def model(imitation_service):
    return training(imitation_service)
