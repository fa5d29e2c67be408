"""Sample in Celery tasks. Start a worker with ``celery -A celery_task worker``."""

import functools
import os

from celery import Celery

from tinkex_sync import SamplingClient, ServiceClient, TinkexError, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")

app = Celery(
    "completions",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost"),
    backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost"),
)


@functools.cache
def sampler() -> SamplingClient:
    """Return the client of this worker process. Celery forks its workers before the first task."""
    return ServiceClient(base_url=BASE_URL).create_sampling_client(base_model=MODEL)


# The client itself retries for minutes; the task is repeated only if that failed.
@app.task(autoretry_for=(TinkexError,), max_retries=3, retry_backoff=True, acks_late=True)
def complete(prompt: str, max_tokens: int = 16) -> str:
    tokenizer = sampler().get_tokenizer()
    inputs = types.ModelInput.from_ints(tokenizer.encode(prompt))
    response = sampler().sample(inputs, 1, types.SamplingParams(max_tokens=max_tokens), timeout=600.0)
    text: str = tokenizer.decode(response.sequences[0].tokens)
    return text
