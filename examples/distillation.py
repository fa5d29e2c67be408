"""Distil a teacher's top-K distribution: several targets with weights for each position."""

import os

import numpy

from tinkex_sync import ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
K = 4
TEXTS = ["the lamp was lit at dusk", "he counted the stairs", "the sea explained itself"]


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        teacher = service.create_lora_training_client(MODEL, rank=8, seed=1)
        student = service.create_lora_training_client(MODEL, rank=8, seed=2)
        tokenizer = teacher.get_tokenizer()
        encoded = [tokenizer.encode(text) for text in TEXTS]
        inputs = [types.ModelInput.from_ints(tokens[:-1]) for tokens in encoded]
        lessons = [
            types.Datum(model_input=one, loss_fn_inputs={"target_tokens": tokens[1:]})
            for one, tokens in zip(inputs, encoded)
        ]
        for _ in range(30):
            teacher.train_step(lessons, "cross_entropy", types.AdamParams(learning_rate=1e-2))

        sampler = teacher.save_weights_and_get_sampling_client()
        data = []
        for prompt, tokens in zip(inputs, encoded):
            whole = types.ModelInput.from_ints(tokens)
            response = sampler.sample(
                whole, 1, types.SamplingParams(max_tokens=1), include_prompt_logprobs=True, topk_prompt_logprobs=K
            )
            # For each position after the first: K pairs of a token and its log probability.
            likely = response.topk_prompt_logprobs[1:]
            data.append(
                types.Datum(
                    model_input=prompt,
                    loss_fn_inputs={
                        "target_tokens": numpy.array([[token for token, _ in row[:K]] for row in likely]),
                        "weights": numpy.exp([[logprob for _, logprob in row[:K]] for row in likely]),
                    },
                )
            )
        positions = sum(len(tokens) - 1 for tokens in encoded)
        for step in range(30):
            output = student.train_step(data, "cross_entropy", types.AdamParams(learning_rate=1e-2))
            if step % 10 == 9:
                print(f"step {step + 1}: cross entropy with the teacher {output.metrics['loss:sum'] / positions:.3f}")


if __name__ == "__main__":
    main()
