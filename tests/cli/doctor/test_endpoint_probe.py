"""The table of endpoints, and the probe of a server that does not report methods."""

import pytest
from scripted_server import Answer

from tinkex_sync import errors
from tinkex_sync.cli.doctor.endpoint_probe import probe_endpoints
from tinkex_sync.config import Config
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.session import Session


@pytest.fixture
def session(scripted, monkeypatch):
    monkeypatch.setenv("TINKEX_SYNC_PROTOCOL", "0.7")
    session = Session(
        Config.from_env(base_url=scripted.base_url, api_key="tml-key", max_retries=0), Observers(autoload=False)
    )
    session.open()
    yield session
    session.close()


def test_only_unknown_paths_are_missing(session, scripted):
    for operation in ("create_model", "asample"):
        scripted.defaults[operation] = Answer(422, {"detail": "empty body"})
    scripted.defaults["sessions"] = Answer(404, {"detail": "Not Found"})
    result = probe_endpoints(session, 5.0)
    assert [row.name for row in result.missing] == ["sessions"]
    assert result.missing[0].path == "/api/v1/sessions"
    assert result.unanswered == 0
    assert not [request for request in scripted.requests if request.method == "DELETE"]


def test_a_server_that_responds_to_nothing_is_an_error(session, scripted):
    class Closing(dict):
        def get(self, operation, default=None):
            return Answer(drop=True)

    scripted.defaults = Closing()
    with pytest.raises(errors.APIConnectionError, match="none of its endpoints"):
        probe_endpoints(session, 5.0)
