"""Protocol versions and client configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from tinkex_sync.local import LocalServer

ROOT = str(Path(__file__).resolve().parents[2])


def test_error_for_missing_protobuf_names_the_extras():
    code = (
        "import sys; sys.modules['google'] = None\n"
        "from tinkex_sync.local import LocalServer\n"
        "LocalServer(protocol='both').start()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MissingExtraError: protocol both needs protobuf" in done.stderr
    assert "[local,proto]" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "0.8"}, "protocol must be one of"),
        ({"client_config": {"fwdbwd": 1}}, "unknown key 'fwdbwd'"),
        ({"client_config": {"fwdbwd_max_chunk_len": True}}, "must be int, not True"),
        ({"token_lifetime": 0}, "token_lifetime"),
        ({"metadata_threshold": -1}, "metadata_threshold"),
    ],
)
def test_error_names_an_invalid_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalServer(**settings)
