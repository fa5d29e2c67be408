"""Restarts of a corrupted run: from its last checkpoint, at most as often as the policy allows."""

import pytest

from tinkex_sync import ServiceClient, errors, types
from tinkex_sync.checkpoints.restart import Restart, RestartPolicy, RunCorruptedError
from tinkex_sync.local import Faults, LocalServer

TOKENS = list(b"the quick brown fox jumps")
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(TOKENS[:-1]),
    loss_fn_inputs={"target_tokens": TOKENS[1:], "weights": [1.0] * (len(TOKENS) - 1)},
)
ADAM = types.AdamParams(learning_rate=1e-2)
STEPS = 6


@pytest.fixture
def server():
    with LocalServer() as running:
        yield running


@pytest.fixture
def service(server):
    with ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False) as client:
        yield client


def create_training(service):
    return service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)


def train_steps(training, begin, losses, save=True):
    for step in range(begin, STEPS):
        result = training.train_step([DATUM], "cross_entropy", ADAM)
        losses[step] = result.metrics["loss:sum"]
        if save:
            training.save_state(f"step-{step + 1}")
    return losses


def recording_train(losses, visits, save=True):
    def train(training, checkpoint):
        visits.append((training.model_id, checkpoint))
        begin = 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])
        return train_steps(training, begin, losses, save)

    return train


def test_a_restarted_run_has_the_losses_of_an_undisturbed_one(server, service):
    undisturbed = train_steps(create_training(service), 0, {})
    restarts, visits = [], []

    def corrupt_in_the_middle(training, checkpoint):
        if checkpoint is None:
            visits.append((training.model_id, None))
            found = {}
            for step in range(3):
                found[step] = training.train_step([DATUM], "cross_entropy", ADAM).metrics["loss:sum"]
                training.save_state(f"step-{step + 1}")
            server.set_faults(Faults(corrupt_runs=1))
            with pytest.raises(errors.RequestFailedError):
                training.train_step([DATUM], "cross_entropy", ADAM)
            assert service.create_rest_client().get_training_run(training.model_id).corrupted
            training.optim_step(ADAM)
        return recording_train({}, visits)(training, checkpoint)

    policy = RestartPolicy(on_restart=restarts.append)
    first = create_training(service)
    found = policy.run(service, first, corrupt_in_the_middle)
    (restart,) = restarts
    assert isinstance(restart, Restart) and restart.attempt == 1 and restart.run_id == first.model_id
    assert restart.checkpoint == f"tinker://{first.model_id}/weights/step-3"
    assert "corrupted" in str(restart.error)
    # The optimizer state is restored, so the losses are equal to the last bit.
    assert found == {step: loss for step, loss in undisturbed.items() if step >= 3}
    assert [checkpoint for _, checkpoint in visits] == [None, restart.checkpoint]
    assert visits[1][0] != first.model_id


def test_a_run_without_a_save_of_its_own_restarts_from_the_earlier_checkpoint(server, service):
    restarts, visits = [], []
    training = create_training(service)
    training.save_state("step-2")
    server.set_faults(Faults(corrupt_runs=3))
    with pytest.raises(RunCorruptedError, match="after 2 restarts") as ended:
        RestartPolicy(2, restarts.append).run(service, training, recording_train({}, visits, save=False))
    checkpoint = f"tinker://{training.model_id}/weights/step-2"
    assert ended.value.checkpoint == checkpoint and ended.value.run_id == visits[-1][0]
    assert isinstance(ended.value.__cause__, errors.RequestFailedError)
    assert [restart.checkpoint for restart in restarts] == [checkpoint, checkpoint]
    assert len({run_id for run_id, _ in visits}) == 3


def test_a_run_without_a_checkpoint_is_not_restarted(server, service):
    server.set_faults(Faults(corrupt_runs=1))
    training = create_training(service)
    with pytest.raises(RunCorruptedError, match="has no checkpoint") as ended:
        RestartPolicy().run(service, training, recording_train({}, [], save=False))
    assert ended.value.run_id == training.model_id and ended.value.checkpoint is None


def test_zero_restarts_are_allowed(server, service):
    training = create_training(service)
    training.save_state("step-0")
    server.set_faults(Faults(corrupt_runs=1))
    with pytest.raises(RunCorruptedError, match="after 0 restarts"):
        RestartPolicy(0).run(service, training, recording_train({}, []))


def test_other_errors_are_raised_unchanged(service):
    training = create_training(service)
    visits = []

    def train(client, checkpoint):
        visits.append(checkpoint)
        client.load_state("tinker://no-such-run/weights/x")

    with pytest.raises(errors.TinkexError) as failed:
        RestartPolicy().run(service, training, train)
    assert not isinstance(failed.value, RunCorruptedError) and visits == [None]
    with pytest.raises(ZeroDivisionError):
        RestartPolicy().run(service, training, lambda client, checkpoint: 1 / 0)


def test_an_exception_of_the_callback_ends_the_training(server, service):
    def refuse(restart):
        raise KeyboardInterrupt

    training = create_training(service)
    training.save_state("step-0")
    server.set_faults(Faults(corrupt_runs=1))
    with pytest.raises(KeyboardInterrupt):
        RestartPolicy(on_restart=refuse).run(service, training, recording_train({}, []))


@pytest.mark.parametrize("value", [-1, 1.5, True, "3"])
def test_a_wrong_number_of_restarts_is_refused(value):
    with pytest.raises(ValueError, match="max_restarts"):
        RestartPolicy(max_restarts=value)


def test_a_model_that_the_server_no_longer_has_is_restarted(server, service):
    def lose_in_the_middle(training, checkpoint):
        if checkpoint is None:
            training.train_step([DATUM], "cross_entropy", ADAM)
            training.save_state("step-1")
            raise errors.status_error(400, body={"detail": f"Model {training.model_id} not loaded"})
        return checkpoint, training.train_step([DATUM], "cross_entropy", ADAM).metrics["loss:sum"]

    first = create_training(service)
    checkpoint, loss = RestartPolicy().run(service, first, lose_in_the_middle)
    assert checkpoint == f"tinker://{first.model_id}/weights/step-1"
    assert loss == list(train_steps(create_training(service), 0, {}, save=False).values())[1]
