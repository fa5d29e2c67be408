"""Train on a batch of text, images and asset pointers, and sample many prompts, under either package.

python drive_both.py tinker|tinkex_sync DATUMS SAMPLES
"""

import random
import struct
import sys
import zlib

package, datums, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if package == "tinker":
    from tinker import ServiceClient, types
else:
    from tinkex_sync import ServiceClient, types

rng = random.Random(11)


def png(size):
    """Return a PNG file of random grey pixels."""
    rows = b"".join(b"\0" + bytes(rng.randrange(256) for _ in range(size)) for _ in range(size))
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    return data


def chunks(index):
    found = [types.EncodedTextChunk(tokens=[rng.randrange(256) for _ in range(rng.randrange(20, 400))])]
    if index % 7 == 0:
        found.append(types.ImageChunk(data=png(rng.randrange(10, 240)), format="png", expected_tokens=4))
    if index % 11 == 0:
        found.append(types.ImageAssetPointerChunk(format="jpeg", location=f"asset://é/{index}", expected_tokens=3))
    return found


def datum(index):
    prompt = types.ModelInput(chunks=chunks(index))
    length = prompt.length
    return types.Datum(
        model_input=prompt,
        loss_fn_inputs={
            "target_tokens": [rng.randrange(256) for _ in range(length)],
            "weights": [rng.choice([0.0, 1.0, 0.25]) for _ in range(length)],
        },
    )


def wait(result):
    return result.result() if hasattr(result, "result") else result


service = ServiceClient()
training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
batch = [datum(index) for index in range(datums)]
prompts = [types.ModelInput(chunks=chunks(index)) for index in range(samples)]
wait(training.forward_backward(batch, "cross_entropy"))
wait(training.optim_step(types.AdamParams(learning_rate=1e-3, weight_decay=0.1)))
sampler = training.save_weights_and_get_sampling_client()
params = types.SamplingParams(max_tokens=2, seed=3)
submit = sampler.sample if package == "tinker" else sampler.submit_sample
for future in [submit(prompt, 1, params) for prompt in prompts]:
    future.result()
(service.holder if package == "tinker" else service).close()
