"""Train on preferences (DPO) with a custom loss in numpy.

Source of the loss: Rafailov et al., Direct Preference Optimization, 2023.
"""

import os
from typing import Dict, List, Sequence, Tuple

import numpy

from tinkex_sync import ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
BETA = 0.1
PAIRS = [
    ("How was the sea?", " Calm, thank you.", " WHO ASKS?"),
    ("Is the lamp lit?", " Yes, since dusk.", " GO AWAY."),
    ("How many stairs?", " One hundred and four.", " COUNT THEM."),
]


def datum(tokenizer, prompt: str, answer: str) -> types.Datum:
    """Encode a prompt and its answer. The weights select the answer."""
    first, rest = tokenizer.encode(prompt), tokenizer.encode(answer)
    tokens = [*first, *rest]
    weights = [0.0] * (len(first) - 1) + [1.0] * len(rest)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
    )


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokenizer = training.get_tokenizer()
        data = [datum(tokenizer, prompt, answer) for prompt, *answers in PAIRS for answer in answers]
        masks = [numpy.asarray(one.loss_fn_inputs["weights"].data) for one in data]
        # The untrained model is the reference.
        outputs = training.forward(data, "cross_entropy").loss_fn_outputs
        reference = [float(mask @ numpy.asarray(one["logprobs"].data)) for mask, one in zip(masks, outputs)]

        def preference(
            data: Sequence[types.Datum], logprobs: Sequence[numpy.ndarray]
        ) -> Tuple[float, List[numpy.ndarray], Dict[str, float]]:
            ratios = numpy.array([mask @ row - ref for mask, row, ref in zip(masks, logprobs, reference)])
            margins = BETA * (ratios[::2] - ratios[1::2])
            slopes = -BETA / (1 + numpy.exp(margins))  # of the loss, by the ratio of the chosen answer
            signs = numpy.repeat(slopes, 2) * numpy.tile([1.0, -1.0], len(margins))
            gradients = [sign * mask for sign, mask in zip(signs, masks)]
            return float(numpy.log1p(numpy.exp(-margins)).sum()), gradients, {"margin": float(margins.mean())}

        for step in range(20):
            output = training.forward_backward_custom(data, preference, backend="numpy")
            training.optim_step(types.AdamParams(learning_rate=5e-3))
            if step % 5 == 4:
                print(f"step {step + 1}: mean margin of the preferred answers {output.metrics['margin']:.3f}")


if __name__ == "__main__":
    main()
