"""Sample completions of many prompts from a thread pool, and write every answer exactly once."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tinkex_sync import SamplingClient, ServiceClient, TinkexError, types

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
PARAMS = types.SamplingParams(max_tokens=8, temperature=0.7)


def answer(sampler: SamplingClient, prompt: str) -> str:
    """Return the completion of one prompt. Retries and rate limits are the client's work."""
    tokenizer = sampler.get_tokenizer()
    tokens = tokenizer.encode(prompt)
    response = sampler.sample(types.ModelInput.from_ints(tokens), 1, PARAMS, timeout=600.0)
    text: str = tokenizer.decode(response.sequences[0].tokens)
    return text


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    prompts = [f"question {number}:" for number in range(count)]
    failed = 0
    # The pool is the inner block, so that it ends while the client still works.
    with ServiceClient(base_url=BASE_URL) as service, ThreadPoolExecutor(32) as pool:
        sampler = service.create_sampling_client(base_model=MODEL)  # any number of threads may share it
        calls = {pool.submit(answer, sampler, prompt): prompt for prompt in prompts}
        with Path("answers.jsonl").open("w", encoding="utf-8") as output:
            for call in as_completed(calls):
                try:
                    row = {"prompt": calls[call], "answer": call.result()}
                except TinkexError as error:
                    row, failed = {"prompt": calls[call], "error": str(error)}, failed + 1
                output.write(json.dumps(row) + "\n")
    print(f"{count} prompts, {failed} failed; answers in answers.jsonl")


if __name__ == "__main__":
    main()
