"""Models and training data of the suite, and measures of what a model has learned."""

from tinkex_sync import types

MODEL = "tinkex/tiny"
GREEDY = types.SamplingParams(max_tokens=6, temperature=0.0)
ADAM = types.AdamParams(learning_rate=1e-2)
TEXT = b"to be, or not to be"


def model(service, **arguments):
    return service.create_lora_training_client(MODEL, rank=4, seed=1, **arguments)


def datum(text=TEXT):
    tokens = list(text)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def datums(count):
    """Return datums of increasing length, so that a result identifies its datum."""
    return [datum(TEXT[: 3 + index]) for index in range(count)]


def prompt(text=TEXT[:5]):
    return types.ModelInput.from_ints(list(text))


def logprobs(output):
    return [list(one["logprobs"].data) for one in output.loss_fn_outputs]


def loss(output):
    """Return the loss in nats per token. Not every server returns it as a metric."""
    flat = [value for one in logprobs(output) for value in one]
    return -sum(flat) / len(flat)


def current_logprobs(model):
    """Return the logprobs of the datum under the current weights."""
    return logprobs(model.forward([datum()], "cross_entropy"))[0]
