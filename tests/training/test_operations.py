"""Operations of one request, and train steps: the optimizer step depends on its backward pass."""

import pickle
import threading
from datetime import datetime, timedelta, timezone

import pytest
from imitations import ADAM, client, datums, training
from scripted_server import Answer, bare_session

from tinkex_sync import (
    BadRequestError,
    ClosedError,
    DeadlineExceeded,
    OutcomeUnknownError,
    TrainingClient,
    WithdrawnError,
    hookimpl,
    types,
)
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.training.batch import BatchOperation
from tinkex_sync.training.lane import TrainingLane
from tinkex_sync.training.operations import OptimizerStep

BUSY = (503, "busy", {"Retry-After": "0.4"})


def test_cancelling_a_backward_pass_withdraws_its_optimizer_step(imitation, model):
    imitation.script["training"] = [BUSY]
    head = model.submit_optim_step(ADAM)
    imitation.until(lambda: any(row[0] == "optim_step" for row in imitation.arrived))
    backward, step = model.submit_train_step(datums(3), "cross_entropy", ADAM)
    assert backward.cancel()
    head.result(20)
    with pytest.raises(WithdrawnError, match="backward pass was not accepted"):
        step.result(20)
    assert imitation.numbers() == [(1, "optim_step")]


def test_an_optimizer_step_whose_backward_pass_was_closed_is_closed_not_withdrawn(imitation_service):
    lane = TrainingLane(imitation_service.session, "model-1")
    backward = BatchOperation(lane, "forward_backward", datums(1), "cross_entropy")
    backward.error = ClosedError("the client is closed")
    with pytest.raises(ClosedError, match="before the optimizer step was sent"):
        OptimizerStep(lane, ADAM, backward).before_dispatch()


def test_a_train_step_has_the_results_of_both_operations(imitation):
    with client(imitation, clock=ScaledClock(20)) as service:
        step = training(service).train_step(datums(2), "cross_entropy", types.AdamParams())
    assert step.metrics == {"loss:sum": 1.0}
    assert step.loss_fn_outputs is step.forward_backward.loss_fn_outputs
    assert step.optim_step.metrics is None


def test_the_timeout_of_a_submitted_train_step_applies_to_both_futures(imitation, model):
    imitation.ready.clear()
    for future in model.submit_train_step(datums(1), "cross_entropy", ADAM, timeout=0.3):
        with pytest.raises(DeadlineExceeded):
            future.result(20)
    imitation.ready.set()


def test_the_serialized_adam_parameters_are_observed_in_the_lanes_thread_and_cannot_be_changed(imitation):
    seen = []

    class Recorder:
        @hookimpl
        def tinkex_adam_params_serialized(self, source, params, payload):
            seen.append((source.id, params, dict(payload), threading.current_thread().name))
            with pytest.raises(TypeError):
                payload["beta1"] = 0.5

    with client(imitation, plugins=[Recorder()]) as service:
        model = training(service)
        model.optim_step(ADAM, timeout=20)
        ((source, params, payload, thread),) = seen
        assert (source, params, payload) == (model.model_id, ADAM, ADAM.to_wire())
        assert thread == f"tinkex-lane-{model.model_id}"


def test_optimizer_parameters_of_another_type_are_rejected(imitation, model):
    with pytest.raises(TypeError, match="AdamParams or DimuonParams, not dict"):
        model.submit_optim_step({"learning_rate": 1e-3})
    assert imitation.requests_to("optim_step") == []


def listing(age, folder="weights"):
    """Return the listing of a run with one checkpoint, saved ``age`` seconds ago."""
    saved = datetime.now(timezone.utc) - timedelta(seconds=age)
    one = {
        "checkpoint_id": f"{folder}/s",
        "checkpoint_type": "training",
        "time": saved.isoformat(),
        "tinker_path": f"tinker://model-1/{folder}/s",
    }
    return Answer(body={"checkpoints": [one]})


BUSY = (503, {"detail": "busy"}, {"Retry-After": "0.5"})


def saving(listed, save):
    """Save while the first response is lost, and a retry is refused because the name exists."""
    with bare_session(ScaledClock(50)) as (server, session):
        for endpoint in ("save_weights", "save_weights_for_sampler"):
            server.script(endpoint, Answer(drop=True))
            server.defaults[endpoint] = Answer(409, {"detail": "a checkpoint of that name exists"})
        server.defaults["training_runs/model-1/checkpoints"] = listed
        return save(TrainingClient(session, "model-1"))


def test_a_listing_settles_a_save_whose_response_was_lost():
    saved = saving(listing(-60), lambda model: model.save_state("s"))
    assert saved == types.SaveWeightsResponse("tinker://model-1/weights/s")
    named = listing(-60, "sampler_weights")
    saved = saving(named, lambda model: model.submit_save_weights_for_sampler("s").result(20))
    assert saved == types.SaveWeightsForSamplerResponse("tinker://model-1/sampler_weights/s")


@pytest.mark.parametrize("listed", [listing(3600), Answer(404, {"detail": "x"}), Answer(body={"checkpoints": []})])
def test_a_save_stays_unknown_if_the_listing_does_not_show_a_new_checkpoint(listed):
    with pytest.raises(OutcomeUnknownError, match="that name exists"):
        saving(listed, lambda model: model.save_state("s"))


@pytest.mark.parametrize(
    ("script", "outcome", "steps"),
    [
        ({"forward_backward": [(400, {"detail": "bad"})]}, "not sent", 0),
        # The optimizer step is accepted at its second attempt, so the first poll is that of the backward pass.
        ({"retrieve_future": [(400, {"detail": "bad"})], "optim_step": [BUSY]}, "applied", 2),
        ({"retrieve_future": [(400, {"detail": "bad"})] * 2, "optim_step": [BUSY]}, "failed", 2),
    ],
)
def test_the_error_of_a_train_step_reports_its_optimizer_step(imitation, model, script, outcome, steps):
    imitation.script.update(script)
    with pytest.raises(BadRequestError, match=f"optimizer step: {outcome}") as caught:
        model.train_step(datums(1), "cross_entropy", ADAM, timeout=20)
    assert caught.value.optimizer_step == outcome
    assert pickle.loads(pickle.dumps(caught.value)).optimizer_step == outcome
    assert len(imitation.requests_to("optim_step")) == steps


def test_the_timeout_of_a_train_step_reports_an_optimizer_step_that_was_accepted(imitation, model):
    imitation.ready.clear()
    with pytest.raises(DeadlineExceeded, match="optimizer step: accepted") as caught:
        model.train_step(datums(1), "cross_entropy", ADAM, timeout=1.0)
    assert caught.value.optimizer_step == "accepted"
    imitation.ready.set()
