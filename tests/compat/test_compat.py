"""Clients of the official shape: kinds of methods, names, arguments, event loops, the queue-state method."""

import asyncio
import concurrent.futures
import inspect
import logging
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync import Config
from tinkex_sync.compat.rest import RestClient
from tinkex_sync.local import Faults

ROOT = Path(__file__).resolve().parent.parent.parent
PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])


@pytest.fixture
def client(server):
    server.set_faults(Faults())
    service = tinker.ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False)
    yield service
    service.holder.close()
    server.set_faults(Faults())


def test_every_public_name_exists():
    for name in tinker.__all__:
        assert getattr(tinker, name) is not None
    for name in ("NOT_GIVEN", "NotGiven", "Omit", "NoneType", "DEFAULT_TIMEOUT", "DEFAULT_MAX_RETRIES"):
        assert hasattr(tinker, name)


def test_methods_return_the_official_kinds_of_futures(client):
    training = client.create_lora_training_client("tinkex/tiny", rank=2)
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    rest = client.create_rest_client()
    assert isinstance(training.optim_step(tinker.AdamParams()), tinker.APIFuture)
    assert isinstance(sampler.sample(PROMPT, 1, PARAMS), concurrent.futures.Future)
    assert isinstance(rest.list_sessions(), concurrent.futures.Future)
    assert isinstance(rest.get_sampler(sampler.native.sampling_session_id), tinker.APIFuture)
    assert training.save_state("x").future().result().path.endswith("weights/x")
    assert training.get_telemetry() is None
    assert training.holder is client.holder
    made = tinker.SamplingClient.create(client.holder, base_model="tinkex/tiny").result()
    joined = tinker.SamplingClient(client.holder, sampling_session_id=made.native.sampling_session_id)
    assert len(joined.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 2
    own = tinker.TrainingClient(client.holder, model_seq_id=0, model_id=training.model_id)
    assert own.get_info().lora_rank == 2
    assert RestClient(client.holder).get_session(client.holder.get_session_id()).result().training_run_ids


def test_private_session_ids_that_scripts_read_exist(client):
    assert client.holder._session_id == client.holder.get_session_id()
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    assert sampler._sampling_session_id == sampler.native.sampling_session_id
    assert sampler.holder._session_id == client.holder._session_id
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy._sampling_session_id == sampler._sampling_session_id
    assert copy.holder._session_id == client.holder._session_id


def test_methods_have_the_signatures_of_the_native_methods():
    assert list(inspect.signature(tinker.SamplingClient.sample).parameters)[1:6] == [
        "prompt",
        "num_samples",
        "sampling_params",
        "include_prompt_logprobs",
        "topk_prompt_logprobs",
    ]
    assert inspect.iscoroutinefunction(inspect.unwrap(tinker.SamplingClient.sample_async, stop=_is_async))
    assert RestClient.list_sessions_async.__name__ == "list_sessions_async"


def _is_async(function):
    return inspect.iscoroutinefunction(function)


def test_a_slow_call_does_not_block_the_event_loop(client, server):
    server.set_faults(Faults(try_again_polls=3))

    async def work():
        ticks = 0
        call = asyncio.ensure_future(client.create_lora_training_client_async("tinkex/tiny", rank=2))
        longest, last = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return ticks, longest, await call

    ticks, longest, training = asyncio.run(work())
    assert ticks >= 5
    assert longest < 0.5
    assert training.get_info().lora_rank == 2


def test_an_operation_continues_after_the_timeout_of_its_wait(client, server):
    training = client.create_lora_training_client("tinkex/tiny", rank=2)
    server.set_faults(Faults(try_again_polls=3))
    future = training.save_state("later")

    async def impatient():
        with pytest.raises(asyncio.TimeoutError):
            await future.result_async(timeout=0.01)

    asyncio.run(impatient())
    assert future.result(30).path.endswith("weights/later")
    with pytest.raises(TimeoutError):
        training.save_state("again").result(timeout=0.001)


def test_a_blocking_method_in_an_event_loop_logs_a_warning(client, caplog):
    async def wrong():
        return client.get_server_capabilities()

    with caplog.at_level(logging.WARNING, "tinkex_sync.compat"):
        assert asyncio.run(wrong()).supported_models
    assert "get_server_capabilities_async" in caplog.text


def test_on_queue_state_change_can_be_overridden(client, server, caplog):
    received, event = [], threading.Event()

    class Watching(tinker.SamplingClient):
        def on_queue_state_change(self, queue_state, queue_state_reason=None):
            received.append((queue_state.value, queue_state_reason))
            event.set()

    plain = client.create_sampling_client(base_model="tinkex/tiny")
    core = client.native.create_sampling_client(base_model="tinkex/tiny")
    watching = Watching(client.holder, sampling_session_id=core.sampling_session_id)
    server.set_faults(
        Faults(try_again_polls=2, refusal_state="paused_capacity", pause=1, pause_reason="maintenance")
    )
    with caplog.at_level(logging.WARNING, "tinkex_sync"):
        watching.sample(PROMPT, 1, PARAMS).result(30)
        assert event.wait(5)
        assert watching.native.sampling_session_id not in caplog.text
        server.set_faults(
            Faults(try_again_polls=2, refusal_state="paused_capacity", pause=1, pause_reason="maintenance")
        )
        plain.sample(PROMPT, 1, PARAMS).result(30)
    assert received[0][0].startswith("paused")
    assert caplog.text.count(f"Sampling is paused for sampler {plain.native.sampling_session_id}") == 1


def test_a_sampling_client_can_be_pickled(client):
    sampler = client.create_sampling_client(base_model="tinkex/tiny")
    copy = pickle.loads(pickle.dumps(sampler))
    assert len(copy.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 2
    assert copy.holder is not client.holder
    copy.holder.close()


def test_a_rest_client_can_be_pickled(client):
    rest = pickle.loads(pickle.dumps(client.create_rest_client()))
    session = client.holder.get_session_id()
    assert rest.get_session(session).result().training_run_ids == []
    assert rest.get_telemetry() is None
    rest.holder.close()
    client.create_sampling_client(base_model="tinkex/tiny")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("http_client", object()),
        ("timeout", "soon"),
        ("default_headers", {"a": 1}),
    ],
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


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_install_registers_the_module_paths():
    done = python(
        "import tinkex_sync.compat as c; c.install(); c.install()\n"
        "import tinker, tinker.types.tensor_data as t\n"
        "from tinker.lib.public_interfaces.rest_client import RestClient\n"
        "from tinker.lib.public_interfaces import APIFuture\n"
        "from tinker.lib.retry_handler import RetryConfig\n"
        "from tinker.types.shared.untyped_api_future import UntypedAPIFuture\n"
        "from tinker.types.model_id import ModelID\n"
        "assert tinker is c and t.TensorData is tinker.TensorData and tinker.types.Datum is tinker.Datum\n"
    )
    assert done.returncode == 0, done.stderr


def test_module_paths_work_under_each_name():
    done = python(
        "import sys, tinkex_sync.compat as c\n"
        "from tinkex_sync.compat.types.tensor_data import TensorData\n"
        "from tinkex_sync.compat.lib.public_interfaces.service_client import RetryConfig\n"
        "sys.modules['tinker'] = c\n"
        "from tinker.types.tensor_data import TensorData as same\n"
        "from tinker._exceptions import APIStatusError, TinkerError\n"
        "import tinker.lib.retry_handler\n"
        "assert same is TensorData is c.TensorData\n"
        "assert tinker.lib.retry_handler.RetryConfig is RetryConfig and tinker.types is c.types\n"
        "assert issubclass(APIStatusError, TinkerError) and 'error' not in dir(tinker)\n"
        "try:\n    import tinker.types.nothing\n"
        "except ImportError as error:\n    assert 'nothing' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    assert done.returncode == 0, done.stderr


def test_module_paths_of_tinker_do_not_exist_without_install():
    done = python(
        "import tinkex_sync.compat\n"
        "try:\n    from tinker.types.tensor_data import TensorData\n"
        "except ImportError:\n    pass\n"
        "else:\n    assert TensorData is not tinkex_sync.compat.TensorData\n"
    )
    assert done.returncode == 0, done.stderr


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


def test_install_fails_if_the_official_package_was_imported():
    done = python(
        "import sys, types; sys.modules['tinker'] = types.ModuleType('tinker')\n"
        "import tinkex_sync.compat as c; c.install()"
    )
    assert "imported already" in done.stderr
