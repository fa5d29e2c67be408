"""Train on one text in a blocking loop, then sample from the trained weights."""

import os

from tinkex_sync import ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")  # "local" starts the embedded server
MODEL = os.environ.get("MODEL", "tinkex/tiny")
TEXT = "to be, or not to be, that is the question"


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokenizer = training.get_tokenizer()
        tokens = tokenizer.encode(TEXT)
        datum = types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]}
        )
        adam = types.AdamParams(learning_rate=1e-2, weight_decay=0.01, grad_clip_norm=1.0)
        for step in range(30):
            # Sends both passes at once and returns when both are done.
            output = training.train_step([datum], "cross_entropy", adam)
            if step % 10 == 9:
                print(f"step {step + 1}: loss {output.metrics['loss:sum'] / len(tokens):.3f} per token")

        sampler = training.save_weights_and_get_sampling_client()
        prompt = types.ModelInput.from_ints(tokens[:8])
        response = sampler.sample(prompt, 1, types.SamplingParams(max_tokens=24, temperature=0.0))
        print(TEXT[:8] + "|" + tokenizer.decode(response.sequences[0].tokens))


if __name__ == "__main__":
    main()
