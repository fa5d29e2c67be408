"""The job of most users: train some steps, save, sample some hundreds of times, and download the checkpoint."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from tinkex_sync import ServiceClient, types
from tinkex_sync.checkpoints import download_checkpoint

__all__ = ["BLOCKING", "MANY", "MODEL", "STEPS", "Results", "datum", "params", "prompt", "run_main_job"]

MODEL = "tinkex/tiny"
STEPS, BLOCKING, MANY, THREADS = 6, 100, 200, 50
_TEXT = list(b"to be, or not to be, that is the question")
_ADAM = types.AdamParams(learning_rate=1e-2)


class Results(NamedTuple):
    """What the job returned. The embedded server is deterministic, so that two runs have equal results."""

    metrics: List[Dict[str, float]]
    samples: List[Tuple[List[int], List[float]]]
    #: Digests of the files of the checkpoint, by name.
    files: Dict[str, str]


def datum(length: int = 40) -> types.Datum:
    tokens = (_TEXT * (length // len(_TEXT) + 1))[: length + 1]
    return types.Datum(types.ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})


def prompt(number: int) -> types.ModelInput:
    return types.ModelInput.from_ints([1 + number % 200, 2, 3])


def params(number: int = 0) -> types.SamplingParams:
    return types.SamplingParams(max_tokens=4, temperature=1.0, seed=number)


def _tokens(response: types.SampleResponse) -> Tuple[List[int], List[float]]:
    sequence = response.sequences[0]
    return list(sequence.tokens), list(sequence.logprobs or ())


def _digests(folder: Path) -> Dict[str, str]:
    # checkpoint.json contains the id of the run.
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "checkpoint.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_main_job(service: ServiceClient, folder: Path, before: Callable[[str], Any] = lambda phase: None) -> Results:
    """Run the job.

    Args:
        folder: The checkpoint is downloaded into a folder in it.
        before: Called before each phase ("train", "save", "sample", "sample_many", "download").
    """
    training = service.create_lora_training_client(MODEL, rank=4, seed=1)
    before("train")
    metrics = [dict(training.train_step([datum()], "cross_entropy", _ADAM).metrics) for _ in range(STEPS)]
    before("save")
    saved = training.save_state("last")
    sampler = training.save_weights_and_get_sampling_client("last")
    before("sample")
    with ThreadPoolExecutor(THREADS) as pool:
        calls = [pool.submit(sampler.sample, prompt(number), 1, params(number)) for number in range(BLOCKING)]
        samples = [_tokens(call.result()) for call in calls]
    before("sample_many")
    prompts = map(prompt, range(MANY))
    samples += [_tokens(response) for response in sampler.sample_many(prompts, 1, params())]
    before("download")
    download_checkpoint(service.create_rest_client(), saved.path, folder / "checkpoint")
    return Results(metrics, samples, _digests(folder / "checkpoint"))
