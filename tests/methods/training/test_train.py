"""Training: reproducible to the byte; disjoint by frame; modest about few frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqdask.errors import ModelError, UsageError
from aqdask.methods import dispatch
from aqdask.methods.base import FrameSource, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.paper import train as paper_train
from aqdask.methods.registry import METHODS
from aqdask.methods.training import crops, loop
from aqdask.methods.training.crops import training_crops
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import split_frames
from aqdask.specs import FrameMetadata


def paper(**settings):
    """Settings of the published method: the machinery of training is tried with it, as the quicker one."""
    return TrainSpec(method="paper", **settings)


SPEC = paper(steps=12, batch=4)


class Frames(FrameSource):
    """Small frames of noise and a few stars, made on reading."""

    def __init__(self, count=8, shape=(640, 704), cards=None, hole=None):
        self.ids = [f"night/{index:03}.fits" for index in range(count)]
        self.metadata = cards or [FrameMetadata(camera="cam", filter="L")] * count
        self.shape, self.hole, self.reads = shape, hole, []

    def read(self, index):
        self.reads.append(index)
        generator = np.random.default_rng(index)
        image = generator.poisson(400, self.shape).astype(np.uint16)
        image[generator.integers(0, self.shape[0], 40), generator.integers(0, self.shape[1], 40)] += 3000
        if self.hole is None:
            return image, None
        invalid = np.zeros(self.shape, dtype=bool)
        invalid[self.hole] = True
        return image, invalid


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Several passes, and several points of the curve, within a dozen steps."""
    monkeypatch.setattr(crops, "RESERVOIR_BYTES", 5 * 4 * 4 * 64**2)
    monkeypatch.setattr(loop, "CURVE_STEPS", 5)
    monkeypatch.setattr(paper_train, "HELD_OUT_CROPS", 8)
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)


def test_same_seed_same_bytes_and_the_callers_state_is_left_alone():
    torch.manual_seed(7)
    before = torch.random.get_rng_state(), torch.get_num_threads()
    first = train(Frames(), SPEC)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(8)
    np.random.default_rng().random()
    assert train(Frames(), SPEC).contents == first.contents
    assert train(Frames(), paper(steps=12, batch=4, seed=1)).digest != first.digest


def test_frames_that_calibrate_took_no_part_in_the_fit():
    frames = Frames()
    bundle = train(frames, SPEC)
    parts = {part: set(ids) for part, ids in bundle.provenance["frames"].items()}
    assert {part: len(ids) for part, ids in parts.items()} == {"train": 5, "validation": 1, "calibration": 2}
    assert set.union(*parts.values()) == set(frames.ids)
    read = [frames.ids[index] for index in frames.reads]
    assert set(read[:-2]) == parts["train"] | parts["validation"]
    assert set(read[-2:]) == parts["calibration"]
    assert sum(read.count(name) for name in parts["calibration"]) == 2


def test_the_loss_falls_and_is_recorded():
    bundle = train(Frames(), paper(steps=60, batch=8))
    curve = bundle.provenance["loss_curve"]
    assert curve["step"][-1] == 60
    assert len(curve["train"]) == len(curve["held_out"]) == len(curve["step"])
    assert curve["held_out"][-1] < 0.5 * curve["held_out"][0]


def test_the_bundle_scores_and_good_frames_pass():
    frames = Frames()
    bundle = train(frames, paper(steps=40, batch=8))
    scorer = load_scorer(Bundle.from_bytes(bundle.contents))
    result = score_frame(scorer, Frames(20).read(15)[0], camera="cam", filter="L")
    assert np.mean(result["pvalue"] <= 0.1) < 0.3
    assert bundle.calibration("cam", "L").facts["patches"] == 220  # 2 frames of 10 x 11 patches


def test_a_small_group_has_no_calibration_of_its_own():
    bundle = train(
        Frames(cards=[FrameMetadata(camera="cam", filter=f"F{index}") for index in range(8)]), SPEC
    )
    assert list(bundle.calibrations) == [""]


def test_a_single_group_has_its_own_calibration_however_small():
    bundle = train(Frames(3, shape=(128, 128)), SPEC)
    assert bundle.calibrated_for("cam", "L")
    assert bundle.info()["calibrations"] == {
        key: {"patches": 4, "smallest_pvalue": 0.2} for key in ("", "cam|L")
    }


def test_few_calibration_frames_are_noted():
    told = []
    bundle = train(Frames(), SPEC, progress=lambda p: told.append(p.note))
    assert any("1/221" in note for note in bundle.notes)
    assert any("Calibrated on 2 frames" in note for note in bundle.notes)
    assert [note for note in told if note] == list(bundle.notes)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (8, (5, 1, 2)), (40, (26, 4, 10)), (1000, (650, 100, 100))],
)
def test_split_is_disjoint_and_bounded(count, sizes):
    split = split_frames(count, SPEC)
    assert tuple(map(len, (split.train, split.validation, split.calibration))) == sizes
    assert len({*split.train, *split.validation, *split.calibration}) == sum(sizes)


def test_passes_walk_through_all_frames(monkeypatch):
    monkeypatch.setattr(crops, "FRAMES_PER_PASS", 2)
    frames, spec = Frames(), paper(steps=100, batch=4)
    for number in range(4):
        assert training_crops(frames, range(8), spec, number, paper_train.MinMax()).values.shape == (
            20,
            64,
            64,
        )
    assert sorted(frames.reads) == list(range(8))


def test_crops_are_turned_and_mirrored_in_all_eight_ways():
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    found = np.stack([square] * 8)
    crops.orient(found, np.arange(8))
    ways = {np.rot90(side, k).tobytes() for side in (square, square[::-1]) for k in range(4)}
    assert {one.tobytes() for one in found} == ways
    assert len(ways) == 8


def test_crops_avoid_what_is_not_data_and_lie_in_zero_to_one():
    frames = Frames(3, hole=np.s_[:, 200:])  # a strip of 200 px is left
    drawn = training_crops(frames, range(3), SPEC, 0, paper_train.MinMax()).values
    assert drawn.dtype == np.float32
    assert drawn.min() == 0
    assert (drawn.max(axis=(1, 2)) == 1).all()


@pytest.mark.parametrize(
    ("frames", "spec", "message"),
    [
        (Frames(2), SPEC, "the number of reference frames is 2"),
        (Frames(), paper(patch=50), "the patch is 50 px"),
        (Frames(3, hole=np.s_[:]), SPEC, "no 64 x 64 px crop of 1 reference frames"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_remedy(frames, spec, message):
    with pytest.raises(UsageError, match=message + r".*Expected: .*\. What to do: "):
        train(frames, spec)


def test_a_setting_out_of_range_is_refused():
    with pytest.raises(UsageError, match=r"setting steps is 0\. Expected: .* What to do: .* default, 1000"):
        paper(steps=0)
    with pytest.raises(UsageError, match=r"setting batch is 0\. Expected: .* What to do: .* default, 64"):
        paper(batch=0)


def test_an_unknown_method_is_refused_and_every_known_one_can_be_trained():
    with pytest.raises(UsageError, match=r"the method is 'oracle'\. Expected: one of .*'paper'.* What to do"):
        TrainSpec(method="oracle")
    for method in METHODS.values():
        assert callable(dispatch._load(method.train))


def test_what_is_left_out_is_the_methods_own(monkeypatch):
    defaults = {"steps": 7, "learning_rate": 0.5, "validation": 0.3, "calibration": 0.4}
    monkeypatch.setitem(METHODS, "other", replace(METHODS["paper"], defaults=defaults))
    spec = TrainSpec(method="other", steps=None, validation=0.2)
    assert (spec.steps, spec.learning_rate, spec.validation, spec.calibration) == (7, 0.5, 0.2, 0.4)
    assert paper(steps=None) == paper() == paper(steps=1000, learning_rate=1e-3)
    assert hash(paper(steps=5)) == hash(paper(steps=5, learning_rate=None))
    assert TrainSpec() == TrainSpec(method="aqdask", steps=METHODS["aqdask"].defaults["steps"])


def test_a_loss_that_explodes_is_an_error():
    with pytest.raises(ModelError, match=r"the loss is .* at step .*Expected: .* What to do: train again"):
        train(Frames(), paper(steps=40, batch=4, learning_rate=1e30))
