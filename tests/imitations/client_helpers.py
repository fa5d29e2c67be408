"""A client of an imitation, and small requests."""

from tinkex_sync import ServiceClient, types

__all__ = ["ADAM", "PARAMS", "client", "datum", "datums", "prompt", "training"]

ADAM = types.AdamParams(learning_rate=1e-3)
PARAMS = types.SamplingParams(max_tokens=4)


def client(server, **settings):
    """Return a service client of ``server`` that loads no installed plugins."""
    arguments = {"base_url": server.base_url, "api_key": "tml-key", "load_plugins": False, **settings}
    return ServiceClient(**arguments)


def training(service, base_model="base"):
    return service.create_lora_training_client(base_model, rank=4)


def datum(start=1, length=3):
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(range(start, start + length))),
        loss_fn_inputs={"target_tokens": list(range(start + 1, start + length + 1)), "weights": [1.0] * length},
    )


def datums(count):
    return [datum(start) for start in range(1, count + 1)]


def prompt(*tokens):
    return types.ModelInput.from_ints(list(tokens) or [1, 2, 3])
