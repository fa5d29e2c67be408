"""Measure the time to encode a training request to protobuf, in this package and in the official SDK.

The script prints the shortest time of five runs for two batches: 1024 datums of 1000 tokens from lists, and 64 datums
of 32000 tokens from float32 arrays. The official SDK is measured if it is installed. To compare both encoders, run it
with an interpreter that has the official SDK 0.38.0.
"""

import time
import tracemalloc

import numpy

from tinkex_sync import types
from tinkex_sync.protocol.protobuf_writer import encode_forward_backward


def best(run, rounds=5):
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def batch(kinds, count, length, arrays):
    tokens = [list(range(start, start + length)) for start in range(count)]
    weights = [numpy.full(length, 0.5, "float32") if arrays else [0.5] * length for _ in range(count)]

    def build():
        return [
            kinds.Datum(
                model_input=kinds.ModelInput.from_ints(row), loss_fn_inputs={"target_tokens": row, "weights": weight}
            )
            for row, weight in zip(tokens, weights)
        ]

    return build


def report(name, build, encode):
    data = build()
    both, alone = best(lambda: encode(build())), best(lambda: encode(data))
    print(f"{name}: datums and body {both:.3f} s, body alone {alone:.3f} s")


def ours(data):
    return encode_forward_backward(data, "cross_entropy", None, "model", 1)


def official():
    """The official SDK's types and its way to a body; None where it is not installed."""
    try:
        from tinker import types as kinds
        from tinker.proto.request_conv import forward_backward_request_to_proto
    except ImportError:
        return None

    def encode(data):
        batch = kinds.ForwardBackwardInput(data=data, loss_fn="cross_entropy")
        request = kinds.ForwardBackwardRequest(forward_backward_input=batch, model_id="model", seq_id=1)
        return forward_backward_request_to_proto(request).SerializeToString()

    return kinds, encode


def main():
    for count, length, arrays in ((1024, 1000, False), (64, 32000, True)):
        name = f"{count} x {length}, {'float32 arrays' if arrays else 'lists'}"
        build = batch(types, count, length, arrays)
        report(f"{name}, tinkex_sync", build, ours)
        other = official()
        if other:
            report(f"{name}, official SDK", batch(other[0], count, length, arrays), other[1])
        data = build()
        tracemalloc.start()
        size = len(ours(data))
        print(f"  body {size / 1e6:.1f} MB, peak memory {tracemalloc.get_traced_memory()[1] / 1e6:.1f} MB")
        tracemalloc.stop()


if __name__ == "__main__":
    main()
