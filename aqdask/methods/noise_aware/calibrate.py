"""Calibration of a bundle for cameras and filters: noise, sky templates and p-values, without training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import POOLED, Bundle, Calibration, calibration_key
from aqdask.methods.calibration_spans import OF_FRAMES, SEPARATOR, times_of
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.camera_noise import SURVEYED, CameraNoise, fit_camera_noise
from aqdask.methods.noise_aware.fit_calibration import FeatureReader, calibrate_strata
from aqdask.methods.noise_aware.networks import Networks, load_networks
from aqdask.methods.noise_aware.reference_checks import check_alpha, check_gains, check_unit, naming_unit
from aqdask.methods.noise_aware.reference_split import (
    MIN_FRAMES,
    ReferenceSplit,
    by_camera_and_filter,
    split_groups,
)
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import PatchGrid
from aqdask.text import plural

Groups = Mapping[tuple[str, str], ReferenceSplit]
"""Reference frames by camera and filter."""

FEW_NOISE = 8  # frames


def calibrate_bundle(
    bundle: Bundle, frames: FrameSource, spec: TrainSpec, report: Report, device: str | torch.device = "cpu"
) -> Bundle:
    """Return a copy of a bundle that is calibrated for the cameras and filters of these frames too.

    Parameters
    ----------
    bundle : Bundle
        With ``method="aqdask"``; calibrations of other cameras and filters are kept.
    frames : FrameSource
        Good frames, 3 or more of each camera and filter; each is read whole at most twice.
    spec : TrainSpec
        ``name``, ``seed``, ``alpha``, ``two_sided``, ``span`` and the fractions of the sets are used.
    report : callable
        Called with `TrainProgress`.
    device : str or torch.device

    Raises
    ------
    UsageError
        For too few frames, inconsistent frames, or a noise ratio far from 1.
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """
    groups = split_groups(frames, spec)
    noises = camera_noises(frames, groups, bundle.patch, spec.alpha, report)
    networks = load_networks(bundle)
    calibrations = calibrate_cameras(networks, frames, groups, noises, spec, bundle.patch, report, device)
    fresh = dict(_of_span(key, found.stored(), spec.span) for key, found in calibrations.items())
    if bundle.provenance.get("adapted") or "shipped" not in bundle.provenance:
        del fresh[POOLED]  # an unknown camera keeps the calibration that the model came with
    names = [key for key in fresh if key != POOLED]
    for key in names:
        if key in bundle.calibrations:
            number = sum(map(len, bundle.calibrations[key].facts["about"].get("frames", {}).values()))
            note = f"This replaces the calibration of {_named(key)} on {number} frames."
            report(TrainProgress("note", note=note))
    before = bundle.provenance.get("adapted", [])
    facts = {"seed": spec.seed, "alpha": spec.alpha, "calibrated": names, "archive": spec.archive}
    facts |= {"labels": spec.labels} if spec.labels else {}
    merged = {**bundle.calibrations, **fresh}
    # The notes of a shipped model on its own simulated references mean nothing to the user of a camera.
    earlier = [key for one in before for key in one["calibrated"]]
    if "shipped" not in bundle.provenance:
        earlier = [key for key in bundle.calibrations if key != POOLED]
    notes = {key: merged[key].facts["about"]["notes"] for key in (*earlier, *names)}
    return bundle.with_calibrations(
        merged,
        name=spec.name,
        notes=tuple(named_notes(notes)),
        provenance={**bundle.provenance, "adapted": [*before, facts], "adapted_from": bundle.digest},
    )


def camera_noises(
    frames: FrameSource, groups: Groups, patch: int, alpha: float, report: Report
) -> dict[tuple[str, str], CameraNoise]:
    """Fit noise, hot pixels and saturation of each camera to the fit sets of its filters.

    To all its frames where these are fewer than `FEW_NOISE`: of a frame or two, stars may make the slope.
    """
    found: dict[str, CameraNoise] = {}
    for camera in dict.fromkeys(camera for camera, _ in groups):
        every = [index for (name, _), split in groups.items() if name == camera for index in split.every]
        check_gains(camera, {frames.ids[index]: frames.metadata[index] for index in every})
        check_unit(frames.metadata[index].unit for index in every)
        members = [index for (name, _), split in groups.items() if name == camera for index in split.fit]
        members = members if len(members) >= FEW_NOISE else every
        with naming_unit(frames.metadata[index].unit for index in members):
            tick = _counter(report, "noise", min(len(members), SURVEYED))
            found[camera] = fit_camera_noise(frames, members, patch, tick)
    for key, split in groups.items():  # before anything is trained
        n_y, n_x = PatchGrid(*found[key[0]].shape, patch).shape
        number, total = len(split.threshold), len(split.every)
        check_alpha(number * n_y * n_x, alpha, number, total)
    return {key: found[key[0]] for key in groups}


def calibrate_cameras(
    networks: Networks,
    frames: FrameSource,
    groups: Groups,
    noises: Mapping[tuple[str, str], CameraNoise],
    spec: TrainSpec,
    patch: int,
    report: Report,
    device: str | torch.device,
) -> dict[str, CameraCalibration]:
    """Calibrate each camera and filter, by `calibration_key`; the pooled calibration is the largest one."""
    for key, members in by_camera_and_filter(frames).items():
        if key not in groups:
            few = f"{plural(len(members), 'reference frame')} of {_named(calibration_key(*key))}"
            note = f"{few}: {MIN_FRAMES} are needed for a calibration of its own"
            report(TrainProgress("note", note=note))
    tick = _counter(report, "calibrate", sum(len(split.every) for split in groups.values()))
    found = {}
    for key, split in groups.items():
        reader = FeatureReader(networks, noises[key], patch, str(device))
        with naming_unit(frames.metadata[index].unit for index in split.every):
            made = calibrate_strata(
                reader, frames, split, alpha=spec.alpha, two_sided=spec.two_sided, tick=tick
            )
        if times := times_of(frames.metadata[index].time for index in split.every):
            made = replace(made, facts={**made.facts, "times": times})
        found[calibration_key(*key)] = made
    largest = max(groups, key=lambda key: len(groups[key].every))
    found[POOLED] = found[calibration_key(*largest)].without_strata()
    for note in named_notes(notes_of(found)):
        report(TrainProgress("note", note=note))
    return found


def _of_span(key: str, calibration: Calibration, span: str) -> tuple[str, Calibration]:
    """Return key and calibration for a span of time (`TrainSpec.span`); as they are for the pooled one.

    Raises
    ------
    UsageError
        For the span of frames without a time.
    """
    if not span or key == POOLED:
        return key, calibration
    if span == OF_FRAMES:
        times = calibration.facts["about"].get("times")
        if not times:
            raise UsageError(
                f"the reference frames of {_named(key)} have no time in their headers",
                expected="frames with a time, for a calibration of their span of time",
                consequence="Nothing was calibrated",
                remedy="name the span: `--from TIME --until TIME`",
            )
        span = "/".join(times)
    return f"{key}{SEPARATOR}{span}", calibration.with_span(span)


def notes_of(calibrations: Mapping[str, CameraCalibration]) -> dict[str, list[str]]:
    """Collect notes by `calibration_key`, without those of the pooled one, which is a copy of another."""
    return {key: calibration.facts["notes"] for key, calibration in calibrations.items() if key != POOLED}


def named_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Prefix notes with their camera and filter where there are several."""
    return [
        f"{_named(key)}: {note}" if len(notes) > 1 else note for key, found in notes.items() for note in found
    ]


def _named(key: str) -> str:
    """Write camera and filter of a key in words."""
    return " ".join(key.split("|")).strip() or "an unnamed camera"


def _counter(report: Report, stage: str, total: int) -> Callable[[], None]:
    """Make a function that reports the progress of a stage each time a frame is done."""
    begun, done = time.monotonic(), 0

    def tick() -> None:
        nonlocal done
        done += 1
        seconds = time.monotonic() - begun
        eta = seconds / done * (total - done)
        report(TrainProgress(stage, done, total, seconds=seconds, eta_seconds=eta))

    return tick
