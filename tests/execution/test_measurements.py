"""Measurements on a scored archive: killed at any moment, or on two workers, they end with the same bytes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slow_command
from click.testing import CliRunner
from night import executed, tiny_bundle, write_frame

sys.path.insert(0, str(Path(__file__).parents[1] / "photometry"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "science"))

from drift import MINUTE, START, write_scored
from test_stacking import field

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.execution import config
from aqdask.measurements import frame_tables
from aqdask.methods.shipped import load_shipped

PER_PART = 2
WCS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CDELT1": -2e-4,
    "CDELT2": 2e-4, "CUNIT1": "deg", "CUNIT2": "deg",
}  # fmt: skip
# options of each command, and the number of files from which on it is killed at the latest
COMMANDS = {
    "detect": (("--out", "sources", "--segmentation", "segmentation"), 10),
    "photometry": (("--out", "curves", "--stars", "20"), 8),
    "stack": (("--out", "stack.fits", "--reference", "f0.fits", "--alpha", "0.3"), 12),
    "transients": (("--out", "new", "--template", "f0.fits", "--cutouts", "fits"), 8),
    "rank": (("--out", "rank.parquet"), 0),
    "drift": (("--out", "changes.ecsv"), 0),
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """Eight scored frames of one field, and values of 40 frames whose focus changes."""
    folder, place = tmp_path_factory.mktemp("frames"), tmp_path_factory.mktemp("archives")
    for number in range(8):
        shift = number % 3, -(number % 2)
        cards = WCS | {
            "CRPIX1": 100.0 + shift[0],
            "CRPIX2": 80.0 + shift[1],
            "FILTER": "L",
            "INSTRUME": "tinycam",
        }
        cards |= {"EXPTIME": 60.0, "GAIN": 2.0, "DATE-OBS": f"2024-05-07T01:{number:02d}:00"}
        write_frame(folder / f"f{number}.fits", field(shift, seed=number), **cards)
    aq.ingest(folder, place / "field.zarr", cluster="serial", chunk=64)
    aq.score(place / "field.zarr", tiny_bundle(), cluster="serial")
    size = np.random.default_rng(0).normal(1, 0.01, 40) + np.repeat([0, 0.3], 20)
    times = START + np.arange(40) * MINUTE
    write_scored(place / "values.zarr", load_shipped(), times, {"frame_size_ratio": size})
    return {"drift": place / "values.zarr", "": place / "field.zarr"}


def words(archives: dict[str, Path], name: str, folder: Path, cluster: str = "serial") -> list[str]:
    """The command with its files in a folder."""
    options = [str(folder / o) if COMMANDS[name][0][n - 1] in ("--out", "--segmentation") else o
               for n, o in enumerate(COMMANDS[name][0])]  # fmt: skip
    where = executed(name, cluster)
    return [name, str(archives.get(name, archives[""])), *options, "--quiet", *where]


def finish(archives: dict[str, Path], name: str, folder: Path, cluster: str = "serial") -> dict[str, bytes]:
    """Run a command to its end, and return all files of the folder."""
    done = CliRunner().invoke(aqdask, words(archives, name, folder, cluster))
    assert done.exit_code == 0, done.output
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(archives, tmp_path_factory):
    """Files of each command by its name, made when they are asked for."""
    made: dict[str, dict[str, bytes]] = {}

    def files_of(name: str) -> dict[str, bytes]:
        if name not in made:
            made[name] = finish(archives, name, tmp_path_factory.mktemp("whole"))
            assert made[name]
        return made[name]

    return files_of


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_tables, "FRAMES_PER_PART", PER_PART)
        yield


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_sigkill_at_any_moment_then_the_same_command_gives_the_same_bytes(
    name, archives, undisturbed, tmp_path
):
    wanted, most = undisturbed(name), COMMANDS[name][1]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(slow_command.PRELOAD)
    ready, files = processes.Event(), random.randint(1, most) if most else 0
    command = words(archives, name, tmp_path)
    process = processes.Process(target=slow_command.run, args=(command, PER_PART, ready))
    process.start()
    assert ready.wait(120)
    while process.is_alive() and sum(path.is_file() for path in tmp_path.rglob("*")) < files:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.01 if files else 0.3))
    with contextlib.suppress(ProcessLookupError):  # of a command that writes one file, and is over
        os.killpg(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL or not files, f"over before there were {files} files"
    assert_same(finish(archives, name, tmp_path), wanted)


@pytest.mark.cluster
def test_two_workers_write_what_one_process_writes(client, archives, undisturbed, tmp_path):
    address = client.scheduler.address
    with config.changed({"aqdask.live-page": False}):
        for name in ("detect", "photometry", "stack", "transients"):
            assert_same(finish(archives, name, tmp_path / name, address), undisturbed(name))
