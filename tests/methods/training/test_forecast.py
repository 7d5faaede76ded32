"""How long a training will take: reading is spread over the fillings of the reservoir, not over the steps."""

import math

import pytest
from aqdask.methods.training.forecast import Forecast

from aqdask.methods.training.loop import TrainProgress


class Recipe:
    """Four fillings of ten steps; each took five seconds so far."""

    batch_size = 64

    def __init__(self, loads):
        self.loads = [5.0] * loads

    def loads_left(self, step):
        return 3 - (step - 1) // 10


def progress(done, seconds, first=0):
    """As the loop tells it, having continued from step ``first``."""
    eta = seconds / (done - first) * (40 - done)
    return TrainProgress("train", done, 40, loss=1.0, seconds=seconds, eta_seconds=eta)


@pytest.mark.parametrize(
    ("told", "loads", "left"),
    [
        (progress(5, 5 + 5 * 0.2), 1, 35 * 0.2 + 15),
        (progress(15, 10 + 15 * 0.2), 2, 25 * 0.2 + 10),
        (progress(40, 20 + 40 * 0.2), 4, 0),
        (progress(25, 5 + 5 * 0.2, first=20), 1, 15 * 0.2 + 5),  # continued: one filling in this run
    ],
)
def test_time_left_is_that_of_the_steps_and_of_the_fillings_to_come(told, loads, left):
    found = []
    Forecast(found.append, Recipe(loads), patches=0)(told)
    assert found[-1].eta_seconds == pytest.approx(left, abs=1e-9)
    assert (found[-1].done, found[-1].seconds, found[-1].loss) == (told.done, told.seconds, 1.0)


def test_it_is_said_once_in_words_with_the_calibration():
    found = []
    forecast = Forecast(found.append, Recipe(1), patches=64 * 3000)
    for told in (progress(5, 6.0), progress(10, 7.0), TrainProgress("calibrate", 1, 2, eta_seconds=9.0)):
        forecast(told)
    (note,) = (one.note for one in found if one.note)
    assert note.startswith("about 22 s for 35 steps")
    assert note.endswith("then 5 min to calibrate")  # 3000 times a step of .2 s, by half
    assert found[-1].eta_seconds == 9.0
    assert [one.stage for one in found] == ["note", "train", "train", "calibrate"]
    assert not math.isnan(found[1].eta_seconds)
