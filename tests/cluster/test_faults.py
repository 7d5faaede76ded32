"""A few faults of benchmarks/bench_faults.py, which tries all of them: real processes, no frame lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import machine_faults
import trial as trials
from night import tiny_bundle

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
FAULTS = machine_faults.of_machines()
CHOSEN = (
    "SIGKILL of the client alone",
    "one of two workers cut off for 4 s",
    "port of the dashboard taken",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> trials.Undisturbed:
    """A night of four frames, stored by one process."""
    return trials.prepare(tmp_path_factory.mktemp("undisturbed"), 4, 128, 1, tiny_bundle())


@pytest.mark.parametrize("name", CHOSEN)
def test_no_frame_is_lost(undisturbed, tmp_path, name):
    trial = trials.Trial(tmp_path / "trial", undisturbed)
    FAULTS[name](trial)
    if trial.outcome.startswith("not tried"):
        pytest.skip(trial.outcome)
    assert trial.conclude() == []
    assert trial.findings == []
    assert trial.outcome


def test_a_fault_that_loses_a_frame_is_seen(undisturbed, tmp_path):
    """The verdict itself: one flipped bit in one stored map."""
    trial = trials.Trial(tmp_path / "trial", undisturbed)
    trial.stored()
    (shard,) = trial.archive.glob("quality/*/pvalue/c/1/0/0")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 16
    shard.write_bytes(data)
    assert trial.conclude() == ["frame_002.fits", "frame_003.fits"]
    assert "not sound" in trial.findings[0]
