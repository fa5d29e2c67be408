"""The training loop: two steps in flight, evaluations and saves in between, Ctrl-C, and errors."""

from array import array
from types import SimpleNamespace

import pytest

from tinkex_sync.cli.train.examples import Example
from tinkex_sync.cli.train.loop import TrainLoop
from tinkex_sync.cli.train.run_file import TrainOptions, TrainRun


class Future:
    """A future that is finished when its result is read."""

    def __init__(self, training, name, value):
        self._training, self._name, self._value = training, name, value
        self.is_abandoned = False

    def result(self):
        self._training.events.append(f"result of {self._name}")
        self._training.in_flight -= 1
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    def abandon(self):
        self.is_abandoned = True


class Training:
    """A training client that records what is submitted."""

    def __init__(self, output=None, fails_at=None):
        self.events, self.rates, self.futures = [], [], []
        self.in_flight = self.most_in_flight = 0
        self._output = output or SimpleNamespace(metrics={"loss:sum": 6.0}, loss_fn_outputs=[])
        self._fails_at = fails_at

    def _future(self, name, value):
        self.events.append(name)
        self.in_flight += 1
        future = Future(self, name, value)
        self.futures.append(future)
        return future

    def submit_train_step(self, batch, loss, params, loss_fn_config=None):
        number = len(self.rates)
        self.rates.append(params.learning_rate)
        self.most_in_flight = max(self.most_in_flight, self.in_flight // 2 + 1)
        value = ValueError("step failed") if number == self._fails_at else self._output
        return self._future(f"step {number}", value), self._future(f"optimizer {number}", None)

    def submit_forward(self, batch, loss, loss_fn_config=None):
        return self._future(f"forward {len(batch)}", self._output)

    def submit_save_state(self, name):
        return self._future(name, SimpleNamespace(path=f"tinker://r/weights/{name}"))


class Progress:
    def __init__(self):
        self.steps, self.evaluations = [], []

    def finish_step(self, step, loss, tokens):
        self.steps.append((step, loss, tokens))

    def finish_evaluation(self, step, loss):
        self.evaluations.append((step, loss))


class Interrupt:
    def __init__(self, after=None):
        self.after, self.checks = after, 0

    @property
    def is_requested(self):
        self.checks += 1
        return self.after is not None and self.checks > self.after


EXAMPLE = Example(array("i", [1, 2, 3]), {"weights": array("d", [0.0, 1.0, 1.0])}, 2)


def run_loop(training, run, save_every=None, interrupt=None, validation=()):
    progress, saves = Progress(), []

    def record(step, path):
        run.add_checkpoint(step, path)
        saves.append((step, path))

    loop = TrainLoop(training, [EXAMPLE] * 3, validation, run, save_every, progress, record)
    loop.run(interrupt or Interrupt())
    return loop, progress, saves


def new_run(total, **options):
    run = TrainRun(TrainOptions(model="m", batch=3, **options))
    run.total = total
    return run


def test_two_steps_are_in_flight_and_the_state_is_saved_at_the_end():
    training, run = Training(), new_run(4)
    loop, progress, saves = run_loop(training, run)
    assert training.most_in_flight == 2
    assert loop.losses == [1.0] * 4, "6.0 over 3 examples of 2 tokens"
    assert progress.steps == [(step, 1.0, 6) for step in (1, 2, 3, 4)]
    assert saves == [(4, "tinker://r/weights/step-000004")]
    assert run.step == 4


def test_the_state_is_saved_between_steps_in_their_order():
    _, _, saves = run_loop(Training(), new_run(5), save_every=2)
    assert [step for step, _ in saves] == [2, 4, 5]


def test_a_resumed_run_continues_with_its_step_and_learning_rate():
    training, run = Training(), new_run(10, learning_rate=1.0, lr_decay="linear")
    run.step = 8
    run_loop(training, run)
    assert training.rates == pytest.approx([0.2, 0.1])


def test_a_complete_run_submits_nothing():
    training, run = Training(), new_run(3)
    run.step = 3
    run_loop(training, run)
    assert training.events == []


def test_ctrl_c_finishes_the_steps_in_flight_and_saves():
    training, run = Training(), new_run(100)
    loop, _, saves = run_loop(training, run, interrupt=Interrupt(after=3))
    assert len(loop.losses) == len(training.rates) == 3
    assert [step for step, _ in saves] == [3]


def evaluated_run(total, **options):
    run = new_run(total, **options)
    run.validation_sha256 = "held out"
    return run


def test_the_validation_file_is_evaluated_every_n_steps_and_at_the_end_before_the_save():
    training, run = Training(), evaluated_run(5, eval_every=2)
    _, progress, _ = run_loop(training, run, save_every=4, validation=[EXAMPLE] * 3)
    mean = 6.0 / 6
    assert progress.evaluations == [(2, mean), (4, mean), (5, mean)]
    assert run.evaluations == [{"step": step, "loss": mean} for step in (2, 4, 5)]
    submitted = [name for name in training.events if not name.startswith(("result", "optimizer"))]
    save, forward = "step-000004", "forward 3"
    assert submitted == [
        "step 0",
        "step 1",
        forward,
        "step 2",
        "step 3",
        forward,
        save,
        "step 4",
        forward,
        "step-000005",
    ]


def test_a_large_validation_file_is_evaluated_in_parts_with_two_in_flight():
    training, run = Training(), evaluated_run(1)
    run_loop(training, run, validation=[EXAMPLE] * 150)
    assert [name for name in training.events if name.startswith("forward")] == [
        "forward 64",
        "forward 64",
        "forward 22",
    ]
    assert run.evaluations == [{"step": 1, "loss": 3 * 6.0 / 300}]


def test_ctrl_c_ends_an_evaluation_which_a_later_command_makes_up():
    run = evaluated_run(4, eval_every=2)
    training = Training()
    run_loop(training, run, interrupt=Interrupt(after=3), validation=[EXAMPLE] * 150)
    assert (run.step, run.evaluations) == (2, [])
    run_loop(Training(), run, validation=[EXAMPLE] * 150)
    assert [entry["step"] for entry in run.evaluations] == [2, 4]


def test_an_evaluation_whose_loss_is_not_known_or_not_finite_is_recorded_without_it():
    for metrics in ({}, {"loss:sum": float("nan")}):
        run = evaluated_run(1)
        run_loop(Training(SimpleNamespace(metrics=metrics, loss_fn_outputs=[])), run, validation=[EXAMPLE])
        assert run.evaluations == [{"step": 1, "loss": None}]


def test_an_error_abandons_the_futures_in_flight():
    training = Training(fails_at=1)
    with pytest.raises(ValueError, match="step failed"):
        run_loop(training, new_run(10))
    assert [future.is_abandoned for future in training.futures] == [False, False, *[True] * 4]


def test_a_loss_that_the_server_does_not_return_is_computed_from_log_probabilities():
    entry = {"logprobs": SimpleNamespace(data=[-1.0, -2.0])}
    output = SimpleNamespace(metrics={}, loss_fn_outputs=[entry] * 3)
    loop, _, _ = run_loop(Training(output), new_run(1))
    assert loop.losses == [1.5]
    without = SimpleNamespace(metrics={}, loss_fn_outputs=[])
    loop, _, _ = run_loop(Training(without), new_run(1))
    assert loop.losses == [None]
