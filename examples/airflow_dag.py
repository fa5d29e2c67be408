"""Fine-tune, then sample, as two tasks of an Airflow DAG. The path of the weights passes between them."""

import datetime
import os

from airflow.decorators import dag, task

BASE_URL = os.environ.get("TINKER_BASE_URL", "local")
MODEL = os.environ.get("MODEL", "tinkex/tiny")
TEXT = "to be, or not to be, that is the question"


@task(retries=2, retry_delay=datetime.timedelta(minutes=1))
def fine_tune(steps: int) -> str:
    """Train and return the path of the weights for sampling."""
    from tinkex_sync import ServiceClient, types

    with ServiceClient(base_url=BASE_URL) as service:
        training = service.create_lora_training_client(MODEL, rank=8)
        tokens = training.get_tokenizer().encode(TEXT)
        inputs = types.ModelInput.from_ints(tokens[:-1])
        datum = types.Datum(model_input=inputs, loss_fn_inputs={"target_tokens": tokens[1:]})
        for _ in range(steps):
            training.train_step([datum], "cross_entropy", types.AdamParams(learning_rate=1e-2))
        return training.save_weights_for_sampler("airflow").path


@task
def complete(path: str, prompt: str) -> str:
    """Sample one completion from saved weights."""
    from tinkex_sync import ServiceClient, types

    with ServiceClient(base_url=BASE_URL) as service:
        sampler = service.create_sampling_client(model_path=path)
        tokenizer = sampler.get_tokenizer()
        inputs = types.ModelInput.from_ints(tokenizer.encode(prompt))
        response = sampler.sample(inputs, 1, types.SamplingParams(max_tokens=24, temperature=0.0))
        text: str = tokenizer.decode(response.sequences[0].tokens)
        return text


@dag(schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False)
def fine_tune_and_complete():
    complete(fine_tune(20), "to be")


fine_tune_and_complete_dag = fine_tune_and_complete()
