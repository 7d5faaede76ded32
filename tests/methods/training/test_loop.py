"""The optimiser loop: points of the curve, early stopping, best weights, reports."""

import math

import pytest
import torch
from torch import nn

from aqdask.methods.training import loop
from aqdask.methods.training.loop import fit
from aqdask.methods.training.schedules import factor

STEPS = 20


class Line:
    """A linear layer that learns the sum of its input; ``heights`` stand for the held-out losses."""

    steps = STEPS

    def __init__(self, heights=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.network = nn.Linear(3, 1)
        self.heights, self.taken = iter(heights or ()), []

    def batch(self, step):
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))

    def loss(self, step, batch):
        return (self.network(batch) - batch.sum(dim=1, keepdim=True)).square().mean()

    def held_out(self):
        assert not torch.is_grad_enabled()
        self.taken.append(weights(self))
        return next(self.heights, None) or self.loss(0, self.batch(-1)).item()

    def rate(self, step):
        return 1e-2 * factor("cosine", step, STEPS)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(loop, "CURVE_STEPS", 3)
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)


def weights(recipe):
    return {name: value.clone() for name, value in recipe.network.state_dict().items()}


def silent(progress):
    """Tell nobody."""


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_all_steps_and_the_last_weights_without_patience():
    told, recipe = [], Line(heights=[1, 2, 3, 4, 5, 6, 7])
    curve = fit(recipe, told.append)
    assert curve.steps == [3, 6, 9, 12, 15, 18, 20]
    assert curve.held_out == [1, 2, 3, 4, 5, 6, 7]
    assert curve.best_step == STEPS
    assert same(weights(recipe), recipe.taken[-1])
    assert [progress.done for progress in told] == list(range(1, STEPS + 1))
    assert math.isnan(told[0].held_out)
    assert told[5].held_out == 2
    assert told[-1].eta_seconds == 0


@pytest.mark.parametrize(
    ("heights", "last", "best"),
    [
        ([5, 1, 3, 4, 5, 6, 7], 12, 6),  # no decrease at two points after the best
        ([5, 4, 3, 2, 1, 0.5, 0.4], 20, 20),
        ([9, 9.5, 9.7, 1, 2, 3, 4], 9, 0),  # the start, at 8, was better than all that was tried
        ([7, 7.5, 6, 5, 6, 7, 8], 18, 12),
    ],
)
def test_patience_stops_and_keeps_the_best_weights(heights, last, best):
    recipe = Line(heights)
    start = weights(recipe)
    curve = fit(recipe, silent, patience=2, start_loss=8)
    assert curve.steps[-1] == last
    assert curve.best_step == best
    assert same(weights(recipe), recipe.taken[curve.steps.index(best)] if best else start)


def test_the_same_twice_and_the_callers_settings_come_back():
    before = torch.are_deterministic_algorithms_enabled()
    first, second = Line(), Line()
    assert fit(first, silent) == fit(second, silent)
    assert same(weights(first), weights(second))
    assert torch.are_deterministic_algorithms_enabled() == before


def test_what_a_listener_raises_ends_the_training():
    def interrupt(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        fit(Line(), interrupt)


def test_a_schedule_rises_and_falls_to_zero():
    rates = [factor("cosine", step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] < 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert factor("cosine", 100, 100) == pytest.approx(0)
    assert factor("cosine", 0, 100) == 1
