"""Training of the demo: it ends after its steps or its time, and warms up and decays the learning rate."""

import io
from types import SimpleNamespace

from rich.console import Console

from tinkex_sync.cli.demo.training import TrainingProgress, train


class Training:
    """A training client whose loss falls with each step."""

    def __init__(self):
        self.rates = []

    def train_step(self, batch, loss_fn, adam_params):
        self.rates.append(adam_params.learning_rate)
        return SimpleNamespace(metrics={"loss:sum": 100.0 / len(self.rates)})


def test_training_takes_all_steps_if_there_is_time():
    training, console = Training(), Console(file=io.StringIO())
    progress = train(console, training, list(range(40)), 1000.0, seed=1)
    assert progress.complete == 1.0
    assert not progress.is_out_of_time
    assert len(progress.losses) == len(training.rates) == 100
    assert progress.recent_loss < progress.first_loss
    assert training.rates[0] < training.rates[4] == max(training.rates)
    assert training.rates[-1] < max(training.rates) / 4


def test_training_ends_when_the_time_is_over():
    progress = train(Console(file=io.StringIO()), Training(), list(range(40)), 1e-9, seed=1)
    assert progress.is_out_of_time
    assert len(progress.losses) == 1


def test_the_recent_loss_is_a_mean():
    assert TrainingProgress([5.0, *[1.0] * 10]).recent_loss == 1.0
