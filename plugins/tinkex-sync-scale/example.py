"""Sample prompts.jsonl on a cluster of two processes: ``python example.py dask``, ``ray`` or ``spark``."""

import sys

from tinkex_sync_scale import sample_dataset

from tinkex_sync import ServiceClient, types


def main() -> None:
    with ServiceClient() as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        params = types.SamplingParams(max_tokens=8)
        report = sample_dataset(
            "prompts.jsonl", sampler, params, output="out", engine=sys.argv[1], workers=2, progress=print
        )
    print(report)


if __name__ == "__main__":  # the workers of a local Dask cluster import this file
    main()
