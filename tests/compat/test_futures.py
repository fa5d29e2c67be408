"""The ``_async`` methods in the user's event loop: they do not block it and leave no work behind."""

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import threading

import pytest
from scripted_server import Answer, ScriptedServer

import tinkex_sync.compat as tinker

PARAMS = tinker.SamplingParams(max_tokens=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])
DATUM = tinker.Datum(model_input=PROMPT, loss_fn_inputs={"target_tokens": [2, 3, 4]})
KEPT = {"sequences": [{"stop_reason": "length", "tokens": [7]}]}


@pytest.fixture
def server():
    with ScriptedServer() as running:
        running.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        running.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "sampler-1"})
        running.defaults["asample"] = Answer(body={"request_id": "req-1"})
        running.defaults["optim_step"] = Answer(body={"request_id": "req-2"})
        running.defaults["save_weights_for_sampler"] = Answer(body={"request_id": "req-4"})
        running.defaults["retrieve_future"] = Answer(body=KEPT)
        yield running


@pytest.fixture
def service(server):
    made = tinker.ServiceClient(base_url=server.base_url, api_key="key", load_plugins=False)
    yield made
    made.close()


@pytest.fixture
def gate(server):
    """An event; polls get no response until it is set."""
    event = threading.Event()
    yield event
    event.set()


def response_after(gate, body=KEPT):
    return Answer(body=body, hold=lambda: gate.wait(20.0))


def test_waiting_calls_do_not_block_the_event_loop(server, service, gate):
    sampler = service.create_sampling_client(base_model="m")
    server.defaults["retrieve_future"] = response_after(gate)

    async def work():
        ticks = 0

        async def count_ticks():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker = asyncio.ensure_future(count_ticks())
        calls = [asyncio.ensure_future(sampler.sample_async(PROMPT, 1, PARAMS)) for _ in range(20)]
        while len(server.sent("retrieve_future")) < 20:
            await asyncio.sleep(0.001)
        before = ticks
        while ticks < before + 1000:
            await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        gate.set()
        responses = await asyncio.gather(*calls)
        ticker.cancel()
        return responses

    responses = asyncio.run(asyncio.wait_for(work(), 30))
    assert [list(response.sequences[0].tokens) for response in responses] == [[7]] * 20


def test_a_result_does_not_wait_for_earlier_calls(server, service, gate):
    sampler = service.create_sampling_client(base_model="m")
    server.script("retrieve_future", response_after(gate))

    async def work():
        first = asyncio.ensure_future(sampler.sample_async(PROMPT, 1, PARAMS))
        while not server.sent("retrieve_future"):
            await asyncio.sleep(0.001)
        second = await sampler.sample_async(PROMPT, 1, PARAMS)
        assert not first.done()
        gate.set()
        return await first, second

    assert len(asyncio.run(work())) == 2


def test_cancelling_a_task_ends_only_its_wait(server, service, gate, caplog):
    sampler = service.create_sampling_client(base_model="m")
    training = tinker.TrainingClient(service.holder, model_seq_id=0, model_id="m")
    server.script("retrieve_future", response_after(gate), response_after(gate, {"metrics": {"a:sum": 1.0}}))

    async def work():
        sample = asyncio.ensure_future(sampler.sample_async(PROMPT, 1, PARAMS))
        while not server.sent("retrieve_future"):
            await asyncio.sleep(0.001)
        step = await training.optim_step_async(tinker.AdamParams())
        waiting = asyncio.ensure_future(step.result_async())
        while len(server.sent("retrieve_future")) < 2:
            await asyncio.sleep(0.001)
        for one in (sample, waiting):
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        return step

    step = asyncio.run(work())
    # The loop has ended, but the operation continues. Its end must not log an error about the loop.
    gate.set()
    with caplog.at_level(logging.ERROR):
        assert step.result(10).metrics == {"a:sum": 1.0}
        gc.collect()
    assert caplog.text == ""


def test_a_timeout_is_an_instance_of_every_timeout_error(server, service, gate):
    training = tinker.TrainingClient(service.holder, model_seq_id=0, model_id="m")
    server.defaults["retrieve_future"] = response_after(gate, {"metrics": None})
    step = training.optim_step(tinker.AdamParams())
    with pytest.raises(TimeoutError):
        step.result(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        step.future().result(timeout=0.01)

    async def impatient():
        for kind in (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError):
            with pytest.raises(kind):
                await step.result_async(timeout=0.01)

    asyncio.run(impatient())
    with pytest.raises(TimeoutError):
        training.save_weights_and_get_sampling_client_submit().result(timeout=0.01)
    gate.set()
    assert step.result(10).metrics is None


def test_the_error_of_an_operation_is_raised_by_await(server, service):
    sampler = service.create_sampling_client(base_model="m")
    server.defaults["retrieve_future"] = Answer(body={"error": "no such token", "category": "user"})

    async def work():
        with pytest.raises(tinker.RequestFailedError) as raised:
            await sampler.sample_async(PROMPT, 1, PARAMS)
        return raised.value

    error = asyncio.run(work())
    assert error.category is tinker.types.RequestErrorCategory.User
    assert error.category == "user"
    assert f"{error.category}" == "user"
    assert error.request_id == "req-1"
    assert "no such token" in error.message


def test_event_loops_of_many_threads_share_a_client(server, service):
    sampler = service.create_sampling_client(base_model="m")

    async def work():
        return await asyncio.gather(*[sampler.sample_async(PROMPT, 1, PARAMS) for _ in range(10)])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: asyncio.run(work()), range(16)))
    assert sum(map(len, found)) == 160


def test_blocking_forms_work_in_a_running_loop(server, service):
    training = tinker.TrainingClient(service.holder, model_seq_id=0, model_id="m")
    server.defaults["retrieve_future"] = Answer(body={"metrics": None})

    async def work():
        both = training.optim_step(tinker.AdamParams()), await training.optim_step_async(tinker.AdamParams())
        return [both[0].result(10).metrics, (await both[1]).metrics, await both[0].result_async()]

    assert asyncio.run(work())[:2] == [None, None]


def test_a_slow_loss_does_not_block_the_loop_and_has_the_callers_context(server, service):
    numpy = pytest.importorskip("numpy")
    training = tinker.TrainingClient(service.holder, model_seq_id=0, model_id="m")
    server.defaults["forward"] = server.defaults["forward_backward"] = Answer(body={"request_id": "req-3"})
    logprobs = {"logprobs": {"data": [-1.0, -1.0, -1.0], "dtype": "float32", "shape": [3]}}
    server.defaults["retrieve_future"] = Answer(
        body={"loss_fn_output_type": "t", "loss_fn_outputs": [logprobs], "metrics": {}}
    )
    here = contextvars.ContextVar("here")
    go_on, in_loss = threading.Event(), threading.Event()

    def loss(data, found):
        in_loss.set()
        assert go_on.wait(10.0)
        metrics = {"where": here.get()}
        if isinstance(found[0], numpy.ndarray):
            return 1.0, [one * 0.0 for one in found], metrics
        return sum(one.sum() for one in found), metrics  # with torch

    async def work():
        here.set(3.0)
        submitting = asyncio.ensure_future(training.forward_backward_custom_async([DATUM], loss))
        while not in_loss.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await (await submitting)

    assert asyncio.run(work()).metrics["where"] == 3.0
