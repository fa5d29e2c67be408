# A script for the official SDK, which needs torch. The tests run it under both packages.
import asyncio

import torch

TEXT = list(b"the quick brown fox jumps")


def loss(data, logprobs):
    """Return the negative log likelihood with a quadratic penalty, and a metric."""
    assert len(data) == len(logprobs)
    total = sum((-one - 0.1 * one**2).sum() for one in logprobs)
    return total, {"mine:mean": float(total) / len(logprobs)}


def main(tinker, result):
    from tinker import types
    from tinker.types.tensor_data import TensorData

    service = tinker.ServiceClient()
    tokens = torch.tensor(TEXT)
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens=tokens[:-1].tolist()),
        loss_fn_inputs={"target_tokens": TensorData.from_torch(tokens[1:])},
    )
    result["targets"] = datum.loss_fn_inputs["target_tokens"].to_torch().tolist()
    training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    losses = []
    for _ in range(3):
        backward = training.forward_backward_custom([datum] * 2, loss)
        step = training.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(backward.result().metrics["mine:mean"])
        step.result()

    async def more():
        backward = await training.forward_backward_custom_async([datum] * 2, loss)
        step = await training.optim_step_async(types.AdamParams(learning_rate=5e-3))
        losses.append((await backward).metrics["mine:mean"])
        await step

    asyncio.run(more())
    result["losses"] = losses
    forward = training.forward([datum], "cross_entropy").result()
    result["after"] = forward.loss_fn_outputs[0]["logprobs"].to_torch().sum().item()
    service.holder.close()
