"""Training of another autoencoder for the default method: from random weights, with the shipped head."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import TINY, Frames

from aqdask.methods.base import score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import calibrate, load_scorer, train
from aqdask.methods.noise_aware import train as noise_train
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec


@pytest.fixture(scope="module")
def skipping() -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_train, "HELD_OUT_CROPS", 8)
        spec = replace(TINY, steps=2, architecture="skip", dropout=0.1, loss="mae")
        return Bundle.from_bytes(train(Frames(), spec).contents)


def test_it_begins_with_random_weights_and_keeps_the_head(skipping, tiny):
    shipped = load_shipped()
    for name, values in skipping.weights.items():
        assert np.array_equal(values, shipped.weights[name]) == name.startswith("head"), name
    assert skipping.provenance["start"] == f"head of wide-field {shipped.digest}"
    assert skipping.architecture["options"]["architecture"] == "skip"
    assert noise_train.GENERIC in skipping.notes
    assert tiny.provenance["start"] == f"wide-field {shipped.digest}"
    assert "options" not in tiny.architecture


def test_it_scores_and_is_calibrated_again(skipping):
    image = Frames().read(1)[0]
    maps = score_frame(load_scorer(skipping), image, None, "cam", "L")
    assert np.isfinite(maps["score"]).all()
    again = calibrate(skipping, Frames(camera="other"), TrainSpec(alpha=0.02))
    assert again.architecture == skipping.architecture
    assert again.calibrated_for("other", "L")


def test_augmentations_are_recorded_in_words(skipping, tiny):
    wanted = ["crops", "flips", "rotations", "background of up to 1 sigma"]
    assert tiny.provenance["augmentation"] == skipping.provenance["augmentation"] == wanted
