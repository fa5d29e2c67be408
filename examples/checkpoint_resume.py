"""Train in two runs of this script: the second continues from the checkpoint of the first.

The server must keep its checkpoints between them, as ``tinkex-sync serve --data DIRECTORY`` does.
"""

import json
import os
from pathlib import Path

from tinkex_sync import ServiceClient, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
STATE = Path("run.json")  # what the next run needs
STEPS, SAVE_EVERY = 10, 5
TEXT = "the keeper went down the stairs and counted them"


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        if STATE.exists():
            state = json.loads(STATE.read_text())
            # The weights and the optimizer's moments.
            training = service.create_training_client_from_state_with_optimizer(state["path"])
            print(f"continuing after step {state['step']} from {state['path']}")
        else:
            state = {"step": 0}
            training = service.create_lora_training_client(MODEL, rank=8, seed=0)
        tokens = training.get_tokenizer().encode(TEXT)
        inputs = types.ModelInput.from_ints(tokens[:-1])
        datum = types.Datum(model_input=inputs, loss_fn_inputs={"target_tokens": tokens[1:]})
        for step in range(state["step"] + 1, state["step"] + STEPS + 1):
            output = training.train_step([datum], "cross_entropy", types.AdamParams(learning_rate=5e-3))
            print(f"step {step}: loss {output.metrics['loss:sum']:.3f}")
            if step % SAVE_EVERY == 0:
                path = training.save_state(f"step-{step:06}").path
                # Written whole or not at all, so that a killed run leaves a valid file.
                part = STATE.with_suffix(".part")
                part.write_text(json.dumps({"step": step, "path": path}))
                part.replace(STATE)


if __name__ == "__main__":
    main()
