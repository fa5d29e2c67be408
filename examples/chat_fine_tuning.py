"""Fine-tune on chats in JSON lines, and evaluate on chats that are not trained."""

import json
import os
from pathlib import Path
from typing import List

from tinkex_sync import ServiceClient, TrainingClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
SMALL_TALK = [
    {"messages": [{"role": "user", "content": f"What is {a} plus {b}?"}, {"role": "assistant", "content": f"{a + b}."}]}
    for a in range(6)
    for b in range(6)
]


def datum(tokenizer, chat) -> types.Datum:
    """Encode a chat as one example whose loss counts the assistant's tokens only."""
    tokens: List[int] = []
    weights: List[float] = []
    for message in chat["messages"]:
        head, body = tokenizer.encode(f"{message['role']}: "), tokenizer.encode(message["content"] + "\n")
        tokens += [*head, *body]
        weights += [0.0] * len(head) + [float(message["role"] == "assistant")] * len(body)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights[1:]},
    )


def loss_per_token(training: TrainingClient, data: List[types.Datum]) -> float:
    """Return the mean loss of the assistant's tokens, without changing the gradients."""
    output = training.forward(data, "cross_entropy")
    logprobs = [one["logprobs"].data for one in output.loss_fn_outputs]
    weights = [one.loss_fn_inputs["weights"].data for one in data]
    total = sum(weight * value for row, values in zip(weights, logprobs) for weight, value in zip(row, values))
    return -total / sum(map(sum, weights))


def main() -> None:
    path = Path("chats.jsonl")
    if not path.exists():
        path.write_text("".join(json.dumps(chat) + "\n" for chat in SMALL_TALK))
    chats = [json.loads(line) for line in path.read_text().splitlines()]
    with ServiceClient(base_url=BASE_URL) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokenizer = training.get_tokenizer()
        data = [datum(tokenizer, chat) for chat in chats]
        train, held_out = data[::2] + data[1::4], data[3::4]
        print(f"before: {loss_per_token(training, held_out):.3f} per token of {len(held_out)} chats not trained")
        for _ in range(8):
            for start in range(0, len(train), 9):
                training.train_step(train[start : start + 9], "cross_entropy", types.AdamParams(learning_rate=5e-3))
        print(f"after:  {loss_per_token(training, held_out):.3f}")
        print(training.save_state("chats").path)


if __name__ == "__main__":
    main()
