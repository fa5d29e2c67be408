"""Sample in greenlets: the client runs under gevent's monkey patch without changes."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

from gevent.pool import Pool  # noqa: E402

from tinkex_sync import ServiceClient, types  # noqa: E402

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")


def main() -> None:
    with ServiceClient(base_url=BASE_URL) as service:
        sampler = service.create_sampling_client(base_model=MODEL)
        tokenizer = sampler.get_tokenizer()

        def complete(number: int) -> str:
            prompt = types.ModelInput.from_ints(tokenizer.encode(f"line {number}: "))
            response = sampler.sample(prompt, 1, types.SamplingParams(max_tokens=8))
            text: str = tokenizer.decode(response.sequences[0].tokens)
            return text

        texts = Pool(100).map(complete, range(200))
    print(f"{len(texts)} completions, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    main()
