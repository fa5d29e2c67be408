"""The fixtures for pytest, used in a run of their own."""

import importlib.metadata
import subprocess
import sys

TESTS = """
import pytest
from tinkex_sync import types

PROMPT, PARAMS = types.ModelInput.from_ints([1]), types.SamplingParams(max_tokens=2)


@pytest.mark.tinkex_faults(fail_first={"asample": [400]})
def test_a_fault_of_the_marker(tinkex_server, tinkex_service):
    from tinkex_sync import BadRequestError
    sampler = tinkex_service.create_sampling_client(base_model="tinkex/tiny")
    with pytest.raises(BadRequestError):
        sampler.sample(PROMPT, 1, PARAMS)


def test_no_fault_of_the_test_before(tinkex_service):
    sampler = tinkex_service.create_sampling_client(base_model="tinkex/tiny")
    assert len(sampler.sample(PROMPT, 1, PARAMS).sequences) == 1


@pytest.mark.tinkex_faults(unknown=1)
def test_an_unknown_fault(tinkex_server):
    pass
"""


def test_a_server_a_client_and_the_marker(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    # pytest refuses a plugin that it has found twice.
    entries = [entry for found in importlib.metadata.distributions() for entry in found.entry_points]
    is_found = any((entry.group, entry.name) == ("pytest11", "tinkex_sync") for entry in entries)
    plugin = [] if is_found else ["-p", "tinkex_sync.testing_fixtures"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "--rootdir", str(tmp_path), "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "help(tinkex_sync.local.Faults) lists the names" in done.stdout
