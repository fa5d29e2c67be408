"""Arguments of the service client."""

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync import Config


@pytest.mark.parametrize(
    ("argument", "value"), [("http_client", object()), ("timeout", "soon"), ("default_headers", {"a": 1})]
)
def test_an_unsupported_argument_is_refused_by_name(server, argument, value):
    with pytest.raises((TypeError, ValueError), match=argument):
        tinker.ServiceClient(base_url=server.base_url, api_key="local", **{argument: value})


def test_a_write_limit_below_the_read_limit_is_refused(server):
    with pytest.raises(ValueError, match="write"):
        tinker.ServiceClient(base_url=server.base_url, api_key="k", timeout=tinker.Timeout(60, write=1))


def test_arguments_are_converted_to_settings(server):
    client = tinker.ServiceClient(
        base_url=server.base_url,
        api_key="local",
        timeout=tinker.Timeout(20.0, connect=2.0),
        max_retries=1,
        default_headers={"X-Mine": "1"},
        default_query=tinker.NOT_GIVEN,
        http_client=None,
        load_plugins=False,
    )
    config = client.native.config
    client.holder.close()
    assert isinstance(config, Config)
    assert (config.connect_timeout, config.read_timeout, config.max_retries) == (2.0, 20.0, 1)
    assert config.headers["X-Mine"] == "1"
