"""Behind nginx and haproxy, which end each request without a response after three seconds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from gateway_programs import haproxy, nginx, wait_for
from main_job import MODEL, datum, params, prompt

from tinkex_sync import ServiceClient, types
from tinkex_sync.errors import APIStatusError
from tinkex_sync.local import Faults

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("program", [nginx, haproxy], ids=lambda program: program.__name__)
def test_polls_that_the_gateway_cuts_lose_nothing_and_are_not_logged(program, server, tmp_path, check_main_job):
    with program(tmp_path, server.base_url) as gateway:
        cut = check_main_job(gateway, "polls of 7 s, cut after 3 s", gateway.url)
    # All samples in flight are polled twice during the pause.
    assert cut >= 300


@pytest.mark.parametrize("program", [nginx, haproxy], ids=lambda program: program.__name__)
def test_requests_that_the_gateway_cuts_are_sent_again_and_carried_out_once(
    program, server, service, counted, tmp_path, logged, record
):
    steps, samples = 2, 20
    slow = ("asample", "forward_backward", "optim_step", "save_weights")
    with program(tmp_path, server.base_url) as gateway:
        with ServiceClient(base_url=gateway.url, api_key="local", load_plugins=False) as client:
            training = client.create_lora_training_client(MODEL, rank=4, seed=1)
            sampler = client.create_sampling_client(base_model=MODEL)
            server.set_faults(Faults(latency=dict.fromkeys(slow, 4.0)))
            recovery = threading.Timer(6.0, server.set_faults, (Faults(),))
            recovery.start()
            with ThreadPoolExecutor(samples) as pool:
                calls = [pool.submit(sampler.sample, prompt(number), 1, params(number)) for number in range(samples)]
                for _ in range(steps):
                    training.train_step([datum()], "cross_entropy", types.AdamParams(1e-2))
                training.save_state("cut")
                responses = [call.result() for call in calls]
            recovery.join()
        assert len(responses) == samples
        assert counted() == {"optim_steps": steps, "datums_done": steps, "samples_done": samples}
        cut = gateway.requests_cut()
        assert cut >= samples
        assert len(logged) <= 5 and not any("<" in line for line in logged), logged
        record(gateway, "requests that the server answers after 4 s", f"{steps} steps, 1 save, {samples} samples", cut)


#: What nginx returns instead of the API, while the file ``page`` exists.
PAGES = {
    "login page": 'return 200 "<html><form>password</form></html>";',
    "redirect to a login": "return 302 https://login.example/;",
    "bad request": "return 400;",
    "unauthorized": "return 401;",
    "forbidden": "return 403;",
    "maintenance": "return 503;",
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_of_the_gateway_end_no_accepted_work(page, server, service, counted, tmp_path, logged, record):
    steps, samples = 3, 40
    switch = tmp_path / "page"
    rules = f"if (-f {switch}) {{ {PAGES[page]} }}"
    with nginx(tmp_path, server.base_url, rules) as gateway:
        with ServiceClient(base_url=gateway.url, api_key="local", load_plugins=False) as client:
            training = client.create_lora_training_client(MODEL, rank=4, seed=1)
            sampler = client.create_sampling_client(base_model=MODEL)
            server.set_faults(Faults(pause=2.0, pause_hold=1.0))
            begin, end = threading.Timer(1.0, switch.touch), threading.Timer(5.0, switch.unlink)
            begin.start()
            end.start()
            with ThreadPoolExecutor(samples) as pool:
                calls = [pool.submit(sampler.sample, prompt(number), 1, params(number)) for number in range(samples)]
                for _ in range(steps):
                    training.train_step([datum()], "cross_entropy", types.AdamParams(1e-2))
                assert len([call.result() for call in calls]) == samples
            end.join()
        assert counted() == {"optim_steps": steps, "datums_done": steps, "samples_done": samples}
        assert len(logged) <= 5 and not any("<" in line for line in logged), logged
        record(gateway, f"{page} for 4 s", f"{steps} steps, {samples} samples")


def test_a_body_that_is_too_large_for_nginx_names_the_setting_that_makes_it_smaller(
    server, service, counted, tmp_path, record
):
    batch = [datum(400)] * 450
    with nginx(tmp_path, server.base_url) as gateway:
        with ServiceClient(base_url=gateway.url, api_key="local", load_plugins=False) as client:
            training = client.create_lora_training_client(MODEL, rank=4, seed=1)
            with pytest.raises(APIStatusError, match="max_chunk_bytes=") as caught:
                training.forward(batch, "cross_entropy")
            assert caught.value.status_code == 413 and caught.value.attempts == 1
        with ServiceClient(
            base_url=gateway.url, api_key="local", load_plugins=False, max_chunk_bytes=900_000
        ) as client:
            training = client.create_lora_training_client(MODEL, rank=4, seed=1)
            output = training.forward(batch, "cross_entropy")
        assert len(output.loss_fn_outputs) == counted()["datums_done"] == len(batch)
        record(
            gateway,
            "bodies over 1 MB: 413; then `max_chunk_bytes=900_000`",
            f"{len(batch)} datums",
            result="final; carried out once",
        )


def test_a_gateway_that_restarts_during_the_job_loses_nothing(server, service, counted, tmp_path, logged, record):
    samples = 100
    server.set_faults(Faults(pause=4.0, pause_hold=60.0))
    with ExitStack() as stack:
        gateway = stack.enter_context(haproxy(tmp_path, server.base_url))
        client = stack.enter_context(ServiceClient(base_url=gateway.url, api_key="local", load_plugins=False))
        sampler = client.create_sampling_client(base_model=MODEL)
        pool = stack.enter_context(ThreadPoolExecutor(samples))
        calls = [pool.submit(sampler.sample, prompt(number), 1, params(number)) for number in range(samples)]
        wait_for(lambda: counted("samples_accepted")["samples_accepted"] == samples)
        gateway.kill()
        stack.enter_context(haproxy(tmp_path, server.base_url, port=gateway.port))
        assert len([call.result() for call in calls]) == samples
    assert counted()["samples_done"] == samples
    assert len(logged) <= 5, logged
    record(gateway, "killed and started again", f"{samples} samples")
