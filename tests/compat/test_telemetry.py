"""Telemetry of the official shape."""

import asyncio
import pickle

import pytest

import tinkex_sync.compat as tinker


def test_telemetry_has_the_official_shape(server):
    made = tinker.ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False, telemetry=True)
    try:
        sampler = made.create_sampling_client(base_model="tinkex/tiny")
        assert sampler.get_telemetry().log("mine", {"a": 1}, "WARNING")
        assert not made.get_telemetry().log("bad", {"a": object()})
        assert made.holder.get_telemetry().log_exception_sync(RuntimeError("x"))
        assert asyncio.run(made.get_telemetry().log_fatal_exception(RuntimeError("x"), "CRITICAL"))
        with pytest.raises(KeyError), made.get_telemetry().capture_exceptions(fatal=True):
            raise KeyError("k")
        assert pickle.loads(pickle.dumps(sampler)).get_telemetry() is None
    finally:
        made.close()
