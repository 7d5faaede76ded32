"""A small night of simulated frames, a tiny model, and ways to look at an archive from outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from astropy.io import fits

from aqdask.cli import aqdask
from aqdask.execution.reporter import Silent
from aqdask.methods.base import FrameSource, score_frame
from aqdask.methods.bundle import Bundle, calibration_key
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.paper.network import seeded_autoencoder
from aqdask.methods.paper.scorer import calibration_of
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata
from aqdask.store import layout
from aqdask.store.ledger import REGISTERED, Entry, Ledger, open_ledger

SHAPE = (130, 200)  # a multiple of neither the patch (32) nor the inner chunk (64)
BLANK = -32768
OPTIONS = {"chunk": 64, "frames_per_shard": 4}
WCS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 100.0,
    "CRPIX2": 65.0, "CDELT1": -2e-4, "CDELT2": 2e-4, "CUNIT1": "deg", "CUNIT2": "deg",
}  # fmt: skip


def executed(name: str, cluster: str = "serial") -> list[str]:
    """``--cluster`` of a command; nothing for commands that use no cluster."""
    command = aqdask.get_command(click.Context(aqdask), name)
    takes = command is not None and any(parameter.name == "cluster" for parameter in command.params)
    return ["--cluster", cluster] if takes else []


def sky(seed: int, shape: tuple[int, int] = SHAPE, dtype: str = "int16") -> np.ndarray:
    """Noise with a few stars."""
    rng = np.random.default_rng(seed)
    image = rng.normal(1000, 30, shape)
    for y, x in rng.integers(0, shape, (20, 2)):
        image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] += 2000
    return image.astype(dtype)


def write_frame(
    path: Path, image: np.ndarray, *, masks: dict[str, np.ndarray] | None = None, **cards
) -> Path:
    """One image as FITS, with mask extensions by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.PrimaryHDU(image)
    primary.header.update(cards)
    extensions = [fits.ImageHDU(mask.astype("uint8"), name=name) for name, mask in (masks or {}).items()]
    fits.HDUList([primary, *extensions]).writeto(path, overwrite=True)
    return path


def night_frame(number: int) -> np.ndarray:
    """Frame ``number`` of the night; every third has pixels, and one patch, that are BLANK."""
    image = sky(number)
    if number % 3 == 1:
        image[0:40, 64:100] = BLANK
        image[100, 5:9] = BLANK
    return image


def write_night(folder: Path, count: int, first: int = 0) -> Path:
    """Frames ``L/f00.fits``, ``R/f01.fits``, ... with WCS, time and filter; the sky of each is its number."""
    for number in range(first, first + count):
        band = "LR"[number % 2]
        write_frame(
            folder / band / f"f{number:02d}.fits", night_frame(number), BLANK=BLANK, FILTER=band,
            INSTRUME="tinycam", EXPTIME=60.0, **{"DATE-OBS": f"2024-05-07T01:{number % 60:02d}:00"}, **WCS,
        )  # fmt: skip
    return folder


def tiny_bundle(name: str = "tiny", patch: int = 32, seed: int = 0) -> Bundle:
    """A model with random weights, calibrated on two skies: its numbers differ, and mean nothing.

    The camera of `write_night` has the same calibration as any other.
    """
    network = seeded_autoencoder(seed, (4, 8))
    bundle = Bundle(
        name=name, method="paper", patch=patch, normalisation="minmax",
        architecture={"network": "ConvAutoencoder", "widths": [4, 8]},
        weights={key: value.numpy() for key, value in network.state_dict().items()},
        calibrations={"": calibration_of(np.linspace(0, 1, 10))},
    )  # fmt: skip
    scorer = load_scorer(bundle)
    scores = [score_frame(scorer, sky(n))["score"].ravel() for n in (900, 901)]
    pooled = calibration_of(np.concatenate(scores))
    keys = ("", calibration_key("tinycam", "L"), calibration_key("tinycam", "R"))
    return Bundle.from_bytes(bundle.with_calibrations(dict.fromkeys(keys, pooled)).contents)


class _Skies(FrameSource):
    """Reference frames for `tiny_aqdask`."""

    ids = tuple(f"{number}.fits" for number in range(6))
    metadata = tuple(FrameMetadata(filter="LR"[number % 2], camera="tinycam") for number in range(6))

    def read(self, index: int) -> tuple[np.ndarray, None]:
        """Noise with a few stars."""
        return sky(700 + index, (512, 512)), None


def tiny_aqdask() -> Bundle:
    """A model of the default method, trained for two steps and calibrated on skies like the night's."""
    spec = TrainSpec(method="aqdask", name="ours", steps=2, batch=2, alpha=0.1)
    return Bundle.from_bytes(train(_Skies(), spec).contents)


def files(archive: Path, *parts: str) -> dict[str, bytes]:
    """Every file under ``frames/`` and ``quality/`` (or ``parts``), by relative path."""
    found = {}
    for part in parts or ("frames", "quality"):
        for path in sorted((Path(archive) / part).rglob("*")):
            if path.is_file():
                found[path.relative_to(archive).as_posix()] = path.read_bytes()
    return found


def same_bytes(left: Path | dict[str, bytes], right: Path | dict[str, bytes]) -> None:
    """Assert that two archives hold the same bytes under ``frames/`` and ``quality/``; names what differs."""
    one, two = (where if isinstance(where, dict) else files(where) for where in (left, right))
    assert one
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


def stamps(archive: Path) -> dict[str, tuple[int, int]]:
    """inode and time of every file under ``frames/`` and ``quality/``: who was rewritten has others."""
    found = {}
    for part in ("frames", "quality"):
        for path in (Path(archive) / part).rglob("*"):
            if path.is_file():
                status = path.stat()
                found[str(path.relative_to(archive))] = (status.st_ino, status.st_mtime_ns)
    return found


def ledger_of(archive: Path) -> Ledger:
    return open_ledger(layout.open_root(archive))


def states(archive: Path) -> dict[str, str]:
    return {entry.frame_id: entry.state for entry in ledger_of(archive).entries.values()}


def touch_later(path: Path, seconds: float = 10) -> None:
    """Give a file a later modification time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + int(seconds * 1e9)))


class InterruptAfter(Silent):
    """Ctrl-C when ``count`` results of a stage other than 'look' have come back."""

    def __init__(self, count: int) -> None:
        self.left, self.stage = count, ""

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""
        self.stage = stage

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""
        self.left -= self.stage != "look"
        if self.left == 0:
            raise KeyboardInterrupt("stopped by the test")


def records_of(entry: Entry, *, frame_type: bool = True) -> Iterator[dict]:
    """Records that restore an entry, as layouts before 4 wrote them."""
    about = {"frame_id": entry.frame_id}
    names = [name for name in REGISTERED if frame_type or name != "frame_type"]
    yield {"event": "register", **about, **{name: getattr(entry, name) for name in names}}
    if entry.attempts:
        names = ["state", "reason", "sha256", "crc32c", "invalid_pixels", "attempts"]
        yield {"event": "ingest", **about, **{name: getattr(entry, name) for name in names}}
    if entry.changed:
        yield {"event": "changed", **about, "hdu": entry.hdu}
    if entry.problem:
        stamp = dict(zip(("size", "mtime_ns"), entry.tried, strict=True)) if entry.tried else {}
        yield {"event": "kept", **about, "reason": entry.problem, **stamp}
    for quality, score in entry.scores.items():
        yield {"event": "score", **about, "quality": quality, **asdict(score)}


def to_layout(archive: Path, version: int) -> None:
    """Turn an archive into one of layout 2 or 3: the merged ledger is a segment of JSON lines."""
    root = layout.open_root(archive, writable=True)
    ledger = open_ledger(root)
    records = [{"event": "snapshot"}, *ledger.qualities.values()]
    records += [r for entry in ledger.entries.values() for r in records_of(entry, frame_type=version > 2)]
    shutil.rmtree(archive / "ledger")
    ledger = Ledger(root.create_group("ledger"))
    ledger.append(records)
    ledger.close()
    root.attrs["layout_version"] = version
    layout.consolidate(root)
