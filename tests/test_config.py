"""Every setting: its default, its environment variable, and the error for an invalid value."""

from dataclasses import FrozenInstanceError, fields

import pytest

from tinkex_sync import ConfigError, ServiceClient
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.config import LOCAL_KEY, Config, Preset, RetryStrategies, ThrottleLimits

HOSTED = "https://tinker.thinkingmachines.dev/services/tinker-prod"
REPLACED_BY_SERVER = {"max_chunk_datums", "max_chunk_bytes", "dispatch_bytes"}
#: Setting: default, and invalid values. A new setting must be added here.
SETTINGS = {
    "api_key": (None, ["a\nb", "ümlaut", 7]),
    "credential_command": (None, ["", 7]),
    "project_id": (None, ["", 7]),
    "base_url": (HOSTED, ["", "host:80", "ftp://host", "http://", "locals", 7]),
    "tags": ((), ["run-7", [7]]),
    "sdk_version": ("0.7.0", ["", 7]),
    "protocol": ("auto", ["1.0", 0.7]),
    "billing_pause": (3600.0, [-1, "1", True]),
    "timeout": (None, [0, -1, "1", float("nan"), True]),
    "connect_timeout": (5.0, [0, -1, "1", None, True, float("nan"), float("inf")]),
    "submit_timeout": (60.0, [0, -1, "1", None, True, float("inf")]),
    "read_timeout": (300.0, [0, -1, "1", None, True, float("inf")]),
    "poll_timeout": (660.0, [0, -1, "1", None, True, float("inf")]),
    "first_contact_timeout": (15.0, [0, -1, "1", None, True]),
    "drain": (30.0, [-1, "1", None, True, float("nan")]),
    "heartbeat_interval": (10.0, [0, -1, "1", None, True, float("inf")]),
    "heartbeat_timeout": (10.0, [0, -1, "1", None, True, float("inf")]),
    "max_retries": (10, [-1, 1.5, "1", None, True]),
    "retry_for": (300.0, [0, -1, "1", None, True]),
    "poll_retry_for": (900.0, [0, -1, "1", None, True]),
    "progress_timeout": (7200.0, [0, -1, "1", None, True]),
    "retry_strategies": ({}, [{"sample": RetryStrategies()}, {"submit": 3}, 5, None]),
    "max_chunk_datums": (1024, [0, -1, 1.5, "1", None, True]),
    "max_chunk_bytes": (5_000_000, [0, -1, 1.5, "1", None, True]),
    "max_dispatches": (400, [0, -1, 1.5, "1", None, True]),
    "max_dispatches_after_backoff": (10, [0, -1, 1.5, "1", None, True]),
    "dispatch_bytes": (5_242_880, [0, -1, 1.5, "1", None, True]),
    "bytes_factor_after_backoff": (20, [0, -1, 1.5, "1", None, True]),
    "throttle_memory": (10.0, [-1, "1", None, True]),
    "small_payload_bytes": (131_072, [-1, 1.5, "1", None, True]),
    "small_backoff": (1.0, [0, -1, "1", None, True]),
    "large_backoff": (5.0, [0, -1, "1", None, True]),
    "pace_start": (20.0, [0, -1, "1", None, True]),
    "pace_doubling": (0.25, [0, -1, "1", None, True]),
    "pace_reduction": (0.9, [1.5, 0, -1, "1", None, True]),
    "pace_floor": (1.0, [0, -1, "1", None, True]),
    "pace_growth": (5.0, [0, -1, "1", None, True]),
    "pace_search": (2.0, [0, -1, "1", None, True]),
    "pace_memory": (10.0, [0, -1, "1", None, True]),
    "dispatchers": (4, [0, -1, 1.5, "1", None, True]),
    "max_polls": (1000, [0, -1, 1.5, "1", None, True]),
    "pool_size": (1400, [0, -1, 1.5, "1", None, True]),
    "max_response_bytes": (1 << 30, [0, -1, 1.5, "1", None, True]),
    "proxies": (None, ["http://proxy:3128", {"http": 7}]),
    "verify": (True, ["/no/such/bundle.pem"]),
    "client_certificate": (None, ["/no/such/cert.pem", ("/no/such/cert.pem", "/no/such/key.pem")]),
    "headers": ({}, [{"X-A": "a\r\nX-B: b"}, {"X A\n": "a"}, {"X-A": 7}]),
    "default_query": ({}, [{"a": None}, {7: "a"}, {"a": [object]}]),
    "cloudflare_access_client_id": (None, ["a\nb", 7]),
    "cloudflare_access_client_secret": (None, ["a\nb", 7]),
    "session_factory": (None, ["requests.Session"]),
    "pickle_credentials": (False, ["no", 1]),
    "hook_timeout": (None, [0, -1, "x"]),
    "telemetry": (False, ["no", 1]),
    "clock": (None, []),
}
SECRET = {
    "api_key",
    "credential_command",
    "default_query",
    "headers",
    "proxies",
    "cloudflare_access_client_id",
    "cloudflare_access_client_secret",
}
#: Variable: setting, texts and what they mean, and texts that are refused.
VARIABLES = {
    "TINKER_API_KEY": ("api_key", {"tml-1": "tml-1", "": None}, ["a\nb"]),
    "TINKER_BASE_URL": ("base_url", {"http://h/p/": "http://h/p/", "local": "local", "": HOSTED}, ["h:80"]),
    "TINKER_CREDENTIAL_CMD": ("credential_command", {"print key": "print key", "": None}, []),
    "TINKER_PROJECT_ID": ("project_id", {"proj-1": "proj-1", "": None}, []),
    "TINKER_TAGS": ("tags", {"b, a,,b": ("a", "b"), "": ()}, []),
    "TINKER_TELEMETRY": (
        "telemetry",
        {"1": True, "TRUE": True, "yes": True, "on": True, "0": False, "off": False, "": False},
        ["2", "maybe"],
    ),
    "TINKEX_SYNC_TIMEOUT": ("timeout", {"2.5": 2.5, "": None}, ["0", "-1", "soon", "nan"]),
    "TINKEX_SYNC_PROTOCOL": ("protocol", {"0.7": "0.7", "0.38": "0.38", "": "auto"}, ["1.0"]),
    "CLOUDFLARE_ACCESS_CLIENT_ID": ("cloudflare_access_client_id", {"id": "id", "": None}, ["a\nb"]),
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": ("cloudflare_access_client_secret", {"s": "s", "": None}, ["a\nb"]),
}


def cases(column):
    return [(name, value) for name, row in SETTINGS.items() for value in row[column]]


def test_every_setting_has_a_row():
    assert {one.name for one in fields(Config)} == set(SETTINGS)


def test_the_limits_of_the_throttle_are_settings_with_one_default_each():
    limits = Config(max_dispatches=7, pace_start=3).throttle
    assert limits == ThrottleLimits(max_dispatches=7, pace_start=3)
    assert Config().throttle == ThrottleLimits()
    with pytest.raises(ConfigError, match="pace_floor must be a number > 0, got 0"):
        ThrottleLimits(pace_floor=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_has_its_documented_default(name):
    value = getattr(Config(), name)
    if name == "clock":
        assert type(value) is Clock
    else:
        assert value == SETTINGS[name][0]
        kind = type(SETTINGS[name][0])
        assert type(value) is (Preset if name in REPLACED_BY_SERVER else kind)


def test_the_server_may_replace_only_the_defaults_of_limits_that_it_returns():
    assert {one.name for one in fields(Config) if isinstance(one.default, Preset)} == REPLACED_BY_SERVER


@pytest.mark.parametrize(("name", "value"), cases(1), ids=lambda value: repr(value)[:30])
def test_an_invalid_value_raises_with_the_name_of_the_setting(name, value):
    for make in (Config, Config().replace, Config.from_env) if value is not None else (Config, Config().replace):
        with pytest.raises(ConfigError, match=f"^{name}") as caught:
            make(**{name: value})
        assert isinstance(caught.value, ValueError)
        text = str(caught.value)
        assert "must" in text
        if name not in SECRET:
            shown = value[0] if isinstance(value, tuple) else value
            assert repr(shown) in text


@pytest.mark.parametrize("name", ["drain", "retry_for", "poll_retry_for", "progress_timeout", "first_contact_timeout"])
def test_a_limit_in_time_may_be_infinite(name):
    assert getattr(Config(**{name: float("inf")}), name) == float("inf")


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_sets_its_setting_and_is_named_in_errors(variable, monkeypatch):
    name, texts, wrong = VARIABLES[variable]
    for text, meaning in texts.items():
        monkeypatch.setenv(variable, text)
        assert getattr(Config.from_env(), name) == meaning, text
        assert getattr(Config(), name) == SETTINGS[name][0]
    for text in wrong:
        monkeypatch.setenv(variable, text)
        with pytest.raises(ConfigError, match=variable) as caught:
            Config.from_env()
        assert name in SECRET or text in str(caught.value)


def test_an_argument_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-of-the-environment")
    monkeypatch.setenv("TINKER_TAGS", "a")
    monkeypatch.setenv("TINKEX_SYNC_TIMEOUT", "invalid")
    config = Config.from_env(api_key="tml-argument", tags=["b"], timeout=3)
    assert (config.api_key, config.tags, config.timeout) == ("tml-argument", ("b",), 3)
    monkeypatch.delenv("TINKEX_SYNC_TIMEOUT")
    # An argument of None counts as not given.
    assert Config.from_env(api_key=None).api_key == "tml-of-the-environment"


def test_every_variable_has_a_row():
    from tinkex_sync.config import ENVIRONMENT

    assert {name: variable for name, (variable, _) in ENVIRONMENT.items()} == {
        row[0]: variable for variable, row in VARIABLES.items()
    }


def test_an_unknown_setting_raises_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown setting 'time_out'; the settings are api_key, .*timeout"):
        Config.from_env(time_out=3)
    with pytest.raises(ConfigError, match="unknown setting 'time_out'"):
        ServiceClient(api_key="k", base_url="http://127.0.0.1:9", time_out=3)


def test_settings_are_frozen_copies():
    config = Config(tags=["b", "a", "b"], headers={"X-A": "1"})
    assert config.tags == ("a", "b")
    with pytest.raises(FrozenInstanceError):
        config.timeout = 3
    given = {"X-A": "1"}
    config = Config(headers=given)
    given["X-A"] = "2"
    assert config.headers == {"X-A": "1"}


def test_existing_files_are_accepted(tmp_path):
    path = tmp_path / "some.pem"
    path.write_text("")
    assert Config(verify=str(path), client_certificate=(str(path), str(path)))
    assert Config(verify="system", client_certificate=str(path))
    assert Config(verify=False).verify is False


def test_repr_shows_no_secret():
    config = Config(
        api_key="very-secret",
        proxies={"http": "http://u:very-secret@p"},
        headers={"Cookie": "very-secret"},
        cloudflare_access_client_id="very-secret",
        cloudflare_access_client_secret="very-secret",
        tags=["shown"],
    )
    assert "very-secret" not in repr(config)
    assert "shown" in repr(config)


def test_secrets_are_not_pickled_and_are_read_from_the_environment_of_the_other_process(monkeypatch):
    secrets = {"api_key": "k", "headers": {"Cookie": "c"}, "proxies": {"http": "http://p"}}
    kept = Config(**secrets, timeout=3, pickle_credentials=True)
    assert kept.for_pickle() is kept
    sent = Config(**secrets, timeout=3).for_pickle()
    assert (sent.api_key, sent.headers, sent.proxies, sent.timeout) == (None, {}, None, 3)
    assert Config(api_key=LOCAL_KEY).for_pickle().api_key == LOCAL_KEY
    monkeypatch.setenv("TINKER_API_KEY", "there")
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_ID", "id")
    there = sent.with_credentials_from_env()
    assert (there.api_key, there.cloudflare_access_client_id, there.timeout) == ("there", "id", 3)


def test_a_client_without_a_key_raises_with_the_setting_and_the_variable():
    with pytest.raises(ConfigError, match="give api_key= or set TINKER_API_KEY"):
        ServiceClient(base_url="http://127.0.0.1:9")
