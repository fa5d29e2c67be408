"""Observe a run: queue states with the server's reasons, chunks, and optimizer parameters."""

import os

from tinkex_sync import ServiceClient, hookimpl, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")


class RunLog:
    """Prints what happens. A class named in an entry point of the group ``tinkex_sync`` is found without code."""

    @hookimpl
    def tinkex_queue_state_changed(self, source, state, reason, reason_source, waited):
        print(f"{source.kind} queue: {state} after {waited:.0f} s, {reason} (from {reason_source})")

    @hookimpl
    def tinkex_chunks_planned(self, boundaries, limits):
        sizes = ", ".join(
            f"{chunk.stop - chunk.start} datums with {chunk.estimated_bytes} bytes" for chunk in boundaries
        )
        print(f"{len(boundaries)} chunks ({sizes}), at most {limits['items']} datums each")

    @hookimpl
    def tinkex_adam_params_serialized(self, payload):
        print("optimizer:", ", ".join(f"{name}={value:g}" for name, value in sorted(payload.items())))

    @hookimpl
    def tinkex_retry_scheduled(self, policy, attempt, delay, cause):
        print(f"attempt {attempt} failed ({cause}), next in {delay:.1f} s")


def main() -> None:
    with ServiceClient(base_url=BASE_URL, plugins=[RunLog()], max_chunk_datums=3) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokens = training.get_tokenizer().encode("the lamp was lit at dusk")
        inputs = types.ModelInput.from_ints(tokens[:-1])
        data = [types.Datum(model_input=inputs, loss_fn_inputs={"target_tokens": tokens[1:]})] * 7
        training.train_step(data, "cross_entropy", types.AdamParams(learning_rate=1e-3, weight_decay=0.1))


if __name__ == "__main__":
    main()
