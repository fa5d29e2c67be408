"""Raise a reward: sample, score, and train with importance sampling."""

import os
from typing import List, Tuple

from tinkex_sync import SamplingClient, ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
PARAMS = types.SamplingParams(max_tokens=12, temperature=1.0)


def reward(text: str) -> float:
    """Return the share of vowels; any function of the completion will do."""
    return sum(letter in "aeiou" for letter in text) / PARAMS.max_tokens


def datum(prompt: List[int], sequence: types.SampledSequence, advantage: float) -> types.Datum:
    """Make an example of one completion. The prompt has the advantage 0, so it is not trained."""
    tokens, before = [*prompt, *sequence.tokens], len(prompt) - 1
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "logprobs": [0.0] * before + list(sequence.logprobs),
            "advantages": [0.0] * before + [advantage] * len(sequence.tokens),
        },
    )


def rollouts(sampler: SamplingClient, tokenizer, prompts: List[str]) -> Tuple[List[types.Datum], float]:
    """Sample 16 completions of each prompt, and return the examples and the mean reward."""
    data, rewards = [], []
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    inputs = [types.ModelInput.from_ints(tokens) for tokens in encoded]
    for response, tokens in zip(sampler.sample_many(inputs, 16, PARAMS), encoded):
        scores = [reward(tokenizer.decode(one.tokens)) for one in response.sequences]
        mean = sum(scores) / len(scores)
        data += [datum(tokens, one, score - mean) for one, score in zip(response.sequences, scores)]
        rewards += scores
    return data, sum(rewards) / len(rewards)


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokenizer = training.get_tokenizer()
        for step in range(12):
            # Samples come from the current weights, as importance sampling expects.
            sampler = training.save_weights_and_get_sampling_client()
            data, mean = rollouts(sampler, tokenizer, ["the sea ", "a lamp ", "one stair "])
            training.train_step(data, "importance_sampling", types.AdamParams(learning_rate=2e-2))
            print(f"step {step + 1}: mean reward {mean:.3f}")


if __name__ == "__main__":
    main()
