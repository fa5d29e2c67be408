"""The official TrainingClient: its futures, its arguments and the samplers that it makes."""

import asyncio

import pytest

import tinkex_sync.compat as tinker

PARAMS = tinker.SamplingParams(max_tokens=2, seed=1)
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])
DATUM = tinker.Datum(model_input=PROMPT, loss_fn_inputs={"target_tokens": [2, 3, 4]})


@pytest.fixture
def training(client):
    return client.create_lora_training_client("tinkex/tiny", rank=2, seed=1)


def test_steps_are_submitted_in_order_and_return_api_futures(training):
    futures = []
    for _ in range(3):
        futures.append(training.forward_backward([DATUM], "cross_entropy"))
        step = training.optim_step(tinker.AdamParams(learning_rate=0.01))
        assert isinstance(step, tinker.APIFuture)
    losses = [one.result(60).metrics["loss:sum"] for one in futures]
    step.result(60)
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3


def test_an_async_method_submits_and_its_future_is_awaited_for_the_result(training):
    async def step():
        backward = await training.forward_backward_async([DATUM], "cross_entropy")
        optim = await training.optim_step_async(tinker.AdamParams())
        return await backward, await optim.result_async(), await training.get_info_async()

    output, _, info = asyncio.run(step())
    assert "loss:sum" in output.metrics
    assert info.model_id == training.model_id


@pytest.mark.parametrize("operation", ["forward", "forward_backward"])
def test_an_empty_batch_has_an_empty_result(training, operation):
    output = getattr(training, operation)([], "cross_entropy").result(5)
    assert (output.loss_fn_output_type, output.loss_fn_outputs, output.metrics) == ("", [], {})


@pytest.mark.parametrize("arguments", [{}, {"adam_params": tinker.AdamParams(), "optim_params": tinker.AdamParams()}])
def test_optim_step_requires_exactly_one_of_its_two_parameters(training, arguments):
    with pytest.raises(TypeError, match="takes one of adam_params or optim_params"):
        training.optim_step(**arguments)


def test_an_unknown_input_of_a_custom_loss_is_refused(training):
    def loss(data, logprobs):
        raise AssertionError("called")

    with pytest.raises(ValueError, match="loss_type_input must be 'logprobs' or None, not 'tokens'"):
        training.forward_backward_custom([DATUM], loss, loss_type_input="tokens")
    with pytest.raises(ValueError, match="loss_type_input"):
        asyncio.run(training.forward_backward_custom_async([DATUM], loss, loss_type_input="tokens"))


def test_each_way_to_save_weights_makes_a_client_that_samples_from_them(training):
    training.forward_backward([DATUM], "cross_entropy").result(60)
    training.optim_step(tinker.AdamParams(learning_rate=0.1)).result(60)
    path = training.save_weights_for_sampler("kept").result(60).path

    async def awaited():
        return (
            await training.save_weights_and_get_sampling_client_async(),
            await training.create_sampling_client_async(path),
        )

    samplers = [
        training.save_weights_and_get_sampling_client(),
        training.save_weights_and_get_sampling_client(name="named"),
        training.save_weights_and_get_sampling_client_submit().result(60),
        training.create_sampling_client(path),
        *asyncio.run(awaited()),
    ]
    assert {type(one) for one in samplers} == {tinker.SamplingClient}
    found = {tuple(one.sample(PROMPT, 1, PARAMS).result(60).sequences[0].tokens) for one in samplers}
    assert len(found) == 1
    assert all(one.holder is training.holder for one in samplers)


def test_the_state_is_saved_and_loaded_by_path(training):
    path = training.save_state("state").result(60).path
    assert training.load_state(path).result(60)
    assert training.load_state_with_optimizer(path).result(60)
    lost = training.load_state("tinker://no-run/weights/x")
    with pytest.raises(tinker.TinkerError):
        lost.result(60)


def test_the_constructor_continues_an_existing_model(client, training):
    same = tinker.TrainingClient(client.holder, model_seq_id=0, model_id=training.model_id)
    assert same.get_info() == training.get_info()
    assert same.get_tokenizer().decode(list(b"tea")) == "tea"
