"""Making a model know cameras and filters: noise, templates and calibration, without training.

Training ends with it, and `aqdask calibrate` is nothing else: weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from aqdask.errors import UsageError
from aqdask.models.alike import check_alpha, check_gains
from aqdask.models.aqdask import networks_of
from aqdask.models.bundle import POOLED, Bundle, calibration_key
from aqdask.models.calibrate import calibrate_strata, ticking
from aqdask.models.crops import FrameSource
from aqdask.models.fit import Report, TrainProgress
from aqdask.models.knowledge import Knowledge
from aqdask.models.measurer import Measurer
from aqdask.models.references import CameraNoise, learn_noise
from aqdask.models.sets import LEAST_FRAMES, Sets, groups_of, split_groups
from aqdask.models.settings import TrainSpec
from aqdask.specs import PatchGrid


def adapt(
    bundle: Bundle,
    frames: FrameSource,
    spec: TrainSpec,
    report: Report,
    device: str | torch.device = "cpu",
) -> Bundle:
    """A copy of a bundle that is calibrated for the cameras and filters of these frames too.

    Parameters
    ----------
    bundle : Bundle
        With ``method="aqdask"``; calibrations of other cameras and filters are kept.
    frames : FrameSource
        Good frames, 10 to 40 of each camera and filter.
    spec : TrainSpec
        ``name``, ``seed``, ``alpha``, ``two_sided``, ``centred`` and the fractions of the sets count.
    report : callable
        Called with `TrainProgress`.
    device : str or torch.device

    Raises
    ------
    UsageError
        For another method, too few frames, frames that disagree, or a noise ratio far from 1.
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """
    if bundle.method != "aqdask":
        raise UsageError(
            f"the model {bundle.name} is of the method {bundle.method!r}",
            expected="'aqdask': the published method has nothing to adapt",
            consequence="Nothing was calibrated",
            remedy="train a model on these frames instead",
        )
    groups = split_groups(frames, spec)
    cameras = learn_cameras(frames, groups, bundle.patch, spec.alpha)
    measurer = Measurer(*networks_of(bundle), device)
    known = calibrate(measurer, frames, groups, cameras, spec, bundle.patch, report)
    fresh = {key: knowledge.calibration() for key, knowledge in known.items()}
    if bundle.provenance.get("adapted") or "shipped" not in bundle.provenance:
        del fresh[POOLED]  # an unknown camera goes on being judged by the model's own
    names = [key for key in fresh if key != POOLED]
    for key in names:
        if key in bundle.calibrations:
            number = sum(map(len, bundle.calibrations[key].facts["about"].get("frames", {}).values()))
            note = f"This replaces the calibration of {_named(key)} on {number} frames."
            report(TrainProgress("note", note=note))
    facts = {"seed": spec.seed, "alpha": spec.alpha, "calibrated": names, "archive": spec.archive}
    before = bundle.provenance.get("adapted", [])
    history = [*before, facts]
    # What a shipped model says of its own simulated references is nothing to the user of a camera.
    earlier = [key for one in before for key in one["calibrated"]]
    if "shipped" not in bundle.provenance:
        earlier = [key for key in bundle.calibrations if key != POOLED]
    calibrations = {**bundle.calibrations, **fresh}
    about = {key: calibrations[key].facts["about"]["notes"] for key in (*earlier, *names)}
    return bundle.with_calibrations(
        calibrations,
        name=spec.name,
        notes=tuple(named_notes(about)),
        provenance={**bundle.provenance, "adapted": history, "adapted_from": bundle.digest},
    )


def learn_cameras(
    frames: FrameSource, groups: Mapping[tuple[str, str], Sets], patch: int, alpha: float
) -> dict[tuple[str, str], CameraNoise]:
    """Noise, hot pixels and saturation of each camera, from the fit sets of its filters."""
    found: dict[str, CameraNoise] = {}
    for camera in dict.fromkeys(camera for camera, _ in groups):
        every = [index for (name, _), sets in groups.items() if name == camera for index in sets.every]
        check_gains(camera, {frames.ids[index]: frames.cards[index] for index in every})
        members = [index for (name, _), sets in groups.items() if name == camera for index in sets.fit]
        found[camera] = learn_noise(frames, members, patch)
    for key, sets in groups.items():  # before anything is trained
        n_y, n_x = PatchGrid(*found[key[0]].shape, patch).shape
        frames_, total = len(sets.threshold), len(sets.every)
        check_alpha(frames_ * n_y * n_x, alpha, frames_, total)
    return {key: found[key[0]] for key in groups}


def calibrate(
    measurer: Measurer,
    frames: FrameSource,
    groups: Mapping[tuple[str, str], Sets],
    cameras: Mapping[tuple[str, str], CameraNoise],
    spec: TrainSpec,
    patch: int,
    report: Report,
) -> dict[str, Knowledge]:
    """What is known by `calibration_key`; any other camera or filter is judged like the largest."""
    for key, members in groups_of(frames).items():
        if key not in groups:
            few = f"{len(members)} reference frames of {_named(calibration_key(*key))}"
            report(
                TrainProgress("note", note=f"{few}: {LEAST_FRAMES} are needed for a calibration of its own")
            )
    tick = ticking(report, sum(len(sets.every) for sets in groups.values()))
    known = {}
    for key, sets in groups.items():
        known[calibration_key(*key)] = calibrate_strata(
            measurer,
            frames,
            sets,
            cameras[key],
            patch=patch,
            alpha=spec.alpha,
            two_sided=spec.two_sided,
            centred=spec.centred,
            tick=tick,
        )
    largest = max(groups, key=lambda key: len(groups[key].every))
    known[POOLED] = known[calibration_key(*largest)].plain()
    for note in named_notes(notes_of(known)):
        report(TrainProgress("note", note=note))
    return known


def notes_of(known: Mapping[str, Knowledge]) -> dict[str, list[str]]:
    """Notes by `calibration_key`, without those of the pooled one: it is a copy of another."""
    return {key: knowledge.facts["notes"] for key, knowledge in known.items() if key != POOLED}


def named_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by `calibration_key` as sentences; where there are several keys, each says whose it is."""
    return [
        f"{_named(key)}: {note}" if len(notes) > 1 else note for key, found in notes.items() for note in found
    ]


def _named(key: str) -> str:
    """Camera and filter of a key in words."""
    return " ".join(key.split("|")).strip() or "an unnamed camera"
