"""Monkey-patched by gevent, everything works with greenlets for threads. Runs where gevent is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from tinkex_sync import ServiceClient, types

with ServiceClient(base_url=sys.argv[1], api_key="local", load_plugins=False) as service:
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    prompt, params = types.ModelInput.from_ints([1, 2, 3]), types.SamplingParams(max_tokens=2, temperature=0.0)
    jobs = [gevent.spawn(sampler.sample, prompt, 1, params) for _ in range(30)]
    gevent.joinall(jobs, raise_error=True)
    assert list(sampler.sample_many([prompt] * 30, 1, params)) == [job.value for job in jobs]
    training = service.create_lora_training_client("tinkex/tiny", rank=2)
    datum = types.Datum(model_input=prompt, loss_fn_inputs={"target_tokens": [2, 3, 4]})
    assert training.train_step([datum], "cross_entropy", types.AdamParams()).metrics["loss:sum"] > 0
print("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not in this environment")
def test_greenlets_in_place_of_threads(server):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.base_url],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "done", done.stderr
