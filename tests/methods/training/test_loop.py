"""The optimiser loop with a recipe of two networks, trained one after the other."""

import pytest
import torch
from torch import nn

from aqdask.methods.training import loop as loop
from aqdask.methods.training.loop import fit

STEPS = 20


class TwoNetworks:
    """The first half of the steps trains ``first``, the second half ``second`` on what it gives."""

    steps, digest = STEPS, "two"

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.network = nn.ModuleDict({"first": nn.Linear(3, 2), "second": nn.Linear(2, 1)})

    def batch(self, step):
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))

    def loss(self, step, batch):
        hidden = self.network["first"](batch)
        if step < STEPS // 2:
            return (hidden - batch[:, :2]).square().mean()
        return (self.network["second"](hidden.detach()) - batch.sum(dim=1, keepdim=True)).square().mean()

    def held_out(self, step):
        assert not torch.is_grad_enabled()
        return self.loss(min(step, STEPS - 1), self.batch(-1)).item()

    def rate(self, step):
        return 1e-2 if step < STEPS // 2 else 1e-3

    def after(self, step, curve):
        return step


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(loop, "CURVE_STEPS", 3)
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)


def weights(recipe):
    return {name: value.clone() for name, value in recipe.network.state_dict().items()}


def silent(progress):
    """Tell nobody."""


def test_only_the_network_of_the_stage_changes():
    recipe, seen = TwoNetworks(), {0: weights(TwoNetworks())}
    fit(recipe, lambda progress: seen.update({progress.done: weights(recipe)}))
    for name in seen[0]:
        first = name.startswith("first")
        assert torch.equal(seen[0][name], seen[10][name]) is not first
        assert torch.equal(seen[10][name], seen[20][name]) is first


@pytest.mark.parametrize("step", [1, 9, 10, 11, 20])
def test_a_training_of_two_networks_goes_on_where_it_was(step, tmp_path):
    def interrupt(progress):
        if progress.done == step:
            raise KeyboardInterrupt

    whole, checkpoint = TwoNetworks(), tmp_path / "checkpoint"
    curve = fit(whole, silent)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        fit(TwoNetworks(), interrupt, checkpoint, 0)
    told, resumed = [], TwoNetworks()
    assert fit(resumed, lambda progress: told.append(progress.done), checkpoint, 0) == curve
    assert told == list(range(step + 1, STEPS + 1))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert curve["step"] == [3, 6, 9, 12, 15, 18, 20]


def test_a_checkpoint_of_another_training_is_not_used(tmp_path):
    fit(TwoNetworks(), silent, tmp_path / "checkpoint")
    other, told = TwoNetworks(), []
    other.digest = "other"
    fit(other, told.append, tmp_path / "checkpoint")
    assert "belongs to other settings or frames" in told[0].note
    assert told[1].done == 1


@pytest.mark.parametrize("stop", [3, 9, 12])
def test_a_recipe_may_end_a_phase_early_and_resumes_the_same(stop, tmp_path):
    class Early(TwoNetworks):
        def after(self, step, curve):
            assert curve["step"][-1] == step
            return {3: 10, 9: 10, 12: STEPS}[stop] if step == stop else step

    def interrupt(progress):
        if progress.done == (10 if stop < 10 else STEPS):
            raise KeyboardInterrupt

    told, whole, resumed = [], Early(), Early()
    curve = fit(whole, lambda progress: told.append(progress.done))
    left_out = range(stop, 10) if stop < 10 else range(stop, STEPS)
    assert told == [n for n in range(1, STEPS + 1) if n not in left_out]
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        fit(Early(), interrupt, tmp_path / "checkpoint", 0)
    assert fit(resumed, silent, tmp_path / "checkpoint", 0) == curve
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
