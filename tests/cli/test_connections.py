"""Clients for the duration of a command: they are closed at its end, and lookups give up early."""

import pytest

import tinkex_sync
from tinkex_sync import errors
from tinkex_sync.cli.connections import connected_rest, connected_service
from tinkex_sync.cli.output import Output


@pytest.fixture
def output(scripted, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "key")
    monkeypatch.setenv("TINKEX_SYNC_PROTOCOL", "0.7")
    output = Output()
    output.base_url = scripted.base_url
    return output


def test_the_client_uses_the_base_url_of_the_command_and_is_closed(output, scripted):
    with connected_service(output) as service:
        assert service.session_id == "s-1"
    with pytest.raises(errors.ClosedError):
        service.create_rest_client().list_sessions()
    assert scripted.sent("create_session")


def test_a_lookup_gives_up_after_fifteen_seconds(output, monkeypatch):
    settings = {}

    class RecordingClient(tinkex_sync.ServiceClient):
        def __init__(self, **given):
            settings.update(given)
            super().__init__(**given)

    monkeypatch.setattr("tinkex_sync.clients.ServiceClient", RecordingClient)
    with connected_rest(output) as rest:
        assert rest.list_sessions is not None
    assert settings["retry_for"] == 15.0
