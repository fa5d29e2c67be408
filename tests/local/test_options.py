"""Options of the server."""

import json

import pytest

from tinkex_sync.local import Faults
from tinkex_sync.local.options import ServerOptions
from tinkex_sync.local.server_config import ServerConfig


def test_options_can_be_converted_to_json_and_back():
    options = ServerOptions(
        port=4000,
        models=("a/b",),
        like="tuft",
        faults=Faults(latency={"*": 0.1}),
        config=ServerConfig("both", {"pjwt_auth_enabled": True}, token_lifetime=5.0),
    )
    assert ServerOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": -1}, "port must be from 0 to 65535, not -1"),
        ({"port": 65536}, "port must be"),
        ({"hold": -0.5}, "hold must be seconds, 0 or more, not -0.5"),
        ({"session_lifetime": 0}, "session_lifetime must be seconds, more than 0, not 0"),
        ({"like": "x"}, "like must be one of tuft, skyrl, or None, not 'x'"),
    ],
)
def test_check_names_an_option_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        ServerOptions(**fields).check()
