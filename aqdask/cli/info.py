"""Command ``info``: the contents of an archive or of a model bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aqdask.cli.common import Session, local_command
from aqdask.errors import EXIT_DONE, EXIT_FAILED, UsageError
from aqdask.paths import is_object
from aqdask.text import plural

if TYPE_CHECKING:
    from aqdask.methods.bundle import Bundle, Calibration
    from aqdask.store.ledger import Ledger


@click.command()
@click.argument("path")
@click.option("--quarantined", is_flag=True, help="List every quarantined frame with its reason.")
@click.option(
    "--frames", is_flag=True, help="List every frame: state, time (UTC), exposure (s), filter, camera, type."
)
@local_command
def info(session: Session, path: str, quarantined: bool, frames: bool) -> int:
    """Describe an archive or a model.

    PATH is an archive, a model bundle, or the name of the shipped model, wide-field.
    """
    from aqdask.methods.shipped import SHIPPED

    if not is_object(path) and (Path(path).is_file() or (path == SHIPPED and not Path(path).exists())):
        if quarantined or frames:
            raise UsageError(
                f"{path} is a model: {'--frames' if frames else '--quarantined'} lists frames of an archive",
                expected="an archive",
                consequence="Nothing is shown",
                remedy="leave the option out; `aqdask info` shows the references of a model's calibrations",
            )
        _model(session, path)
        return EXIT_DONE
    from aqdask.store import layout, quality_store
    from aqdask.store.entry_table import CODE
    from aqdask.store.ledger import QUARANTINED, open_ledger

    root = layout.open_root(path)
    ledger, names = open_ledger(root, damaged=True), quality_store.names(root)
    _archive(session, path, root, ledger, names)
    rows = ledger.table.all()
    failed = rows.take(rows.worst(names) == CODE[QUARANTINED])
    bad = sorted((entry.frame_id, entry.worst(names)[1]) for entry in failed)
    if quarantined:
        session.table("quarantined", ("frame", "reason"), bad)
    elif bad and not session.json:
        reasons = Counter(reason for _, reason in bad).most_common(10)
        title = "quarantined, by reason (all with --quarantined)"
        session.table(title, ("files", "reason"), [(number, reason) for reason, number in reasons])
    if frames:
        _frames(session, path, ledger, names)
    return EXIT_FAILED if ledger.damage else EXIT_DONE


def _archive(session: Session, path: str, root: Any, ledger: Ledger, names: list[str]) -> None:
    """Print the facts about the archive as a whole."""
    from aqdask.execution.coverage import ATTRIBUTE, not_lights
    from aqdask.store import layout

    spec, counts = layout.read_spec(root), ledger.counts(names)
    scored = {name: _scored(ledger, name) for name in names}
    unknown: dict[str, Any] = {name: root[f"quality/{name}"].attrs.get(ATTRIBUTE, []) for name in names}
    facts = {
        "archive": path,
        "layout version": root.attrs["layout_version"],
        "created by": root.attrs["created_by"],
        "frame shape (y, x)": f"{spec.shape[0]} x {spec.shape[1]}",
        "type": spec.dtype,
        "frames": ledger.row_count,
        **counts,
        "pixels": "stored" if spec.pixels else "not stored (--no-pixels)",
        "quality": ", ".join(f"{n} ({done} of {plural(of, 'frame')})" for n, (done, of) in scored.items())
        or "none yet",
    }
    if ledger.damage:
        lost = f"{'; '.join(ledger.damage)}: this summary may be out of date"
        facts["DAMAGED"] = (
            f"its ledger has lost records ({lost}). `aqdask verify {path} --repair` restores them"
        )
    if told := not_lights(others := ledger.not_lights()):
        facts["frame types"] = f"{told}: no references, not scored unless asked (--all-types)"
    given = _labels(path, root, ledger, names)
    facts |= {"labels": given[0]} if given[0] else {}
    if any(unknown.values()):
        facts["uncalibrated"] = "; ".join(
            f"{name} for {_pairs(keys)}" for name, keys in unknown.items() if keys
        )
    session.emit(
        *(f"{name:18} {value}" for name, value in facts.items()),
        event="info",
        archive=path,
        layout_version=root.attrs["layout_version"],
        created_by=root.attrs["created_by"],
        shape=list(spec.shape),
        dtype=spec.dtype,
        frames=ledger.row_count,
        **counts,
        not_lights=others,
        pixels=spec.pixels,
        damage=ledger.damage,
        labels=given[1],
        quality={
            name: {"done": done, "of": of, "uncalibrated": unknown[name]}
            for name, (done, of) in scored.items()
        },
    )


def _labels(path: str, root: Any, ledger: Ledger, names: list[str]) -> tuple[str, dict[str, Any]]:
    """Count the labels, and compare them with each model: a line, and JSON values."""
    from aqdask.cli.label import counted, in_words
    from aqdask.errors import ArchiveError
    from aqdask.products.agreement import label_agreement
    from aqdask.store import labels

    try:
        numbers = Counter(
            (label.verdict, "frame" if label.box is None else "box") for label in labels.valid(root, ledger)
        )
        found = {name: label_agreement(path, name) for name in (names if numbers else ())}
    except ArchiveError as error:
        return f"DAMAGED: {error.got}", {"damaged": error.got}
    if not numbers:
        return "", {}
    line = ", ".join(counted(number, *key) for key, number in sorted(numbers.items()))
    told = {name: words for name, one in found.items() if (words := in_words(one))}
    line += "".join(f"; {name}: {words}" for name, words in told.items())
    plain = {f"{verdict}_{unit}": number for (verdict, unit), number in numbers.items()}
    return line, plain | {"agreement": [one.facts() for one in found.values()]}


def _frames(session: Session, path: str, ledger: Ledger, names: list[str]) -> None:
    """Print a line for each frame with its header values, so that a wrong reading is seen."""
    from aqdask.store.frame_store import FrameStore

    store = FrameStore.open(path)
    times, exposures, filters, cameras = (
        store.coordinate(n) for n in ("time", "exptime", "filter", "camera")
    )
    rows = [
        (e.row, e.frame_id, e.worst(names)[0], _instant(times[e.row]), _number(exposures[e.row]),
         str(filters[e.row]) or None, str(cameras[e.row]) or None, e.frame_type or None)
        for e in ledger.rows()
    ]  # fmt: skip
    columns = ("row", "frame", "state", "time", "exptime", "filter", "camera", "type")
    session.table("frames", columns, rows)


def _instant(microseconds: int) -> str | None:
    """ISO 8601 text of a stored time (UTC); None for an unknown time."""
    time = np.datetime64(int(microseconds), "us")  # the fill value of the archive is NaT
    return None if np.isnat(time) else str(time).removesuffix("000").removesuffix(".000")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pairs(keys: list[str]) -> str:
    """Cameras and filters as text, from keys ``camera|filter``."""
    return ", ".join(" ".join(_names(key)) if key != "|" else "an unknown camera" for key in keys)


def _scored(ledger: Ledger, name: str) -> tuple[int, int]:
    """Number of frames with a score, and of frames with pixels that are to have one."""
    from aqdask.store.entry_table import CODE, DONE

    rows = ledger.rows()
    wanted = (rows.column("state") == CODE[DONE]) & ~rows.are_skipped(name)
    return int(np.count_nonzero(rows.standing(name)[wanted] == CODE[DONE])), int(np.count_nonzero(wanted))


def _model(session: Session, path: str) -> None:
    """Print name, method, calibrations and notes of a model."""
    from aqdask import api

    bundle = api.load_model(path)
    facts = bundle.info()
    known = {key: _calibration(calibration) for key, calibration in bundle.calibrations.items()}
    shown = {
        "model": facts["name"],
        "sha256": facts["digest"],
        "method": facts["method"],
        "patch": f"{facts['patch']} px",
        "parameters": facts["parameters"],
        "file": f"{facts['bytes'] / 1e6:.2f} MB",
        **_origin(bundle),
    }
    if session.json:
        session.emit(event="model", **facts | {"calibrations": known})
        return
    session.emit(*(f"{name:18} {value}" for name, value in shown.items()))
    rows = [
        (*_names(key), stratum["sky"], stratum["patches"], stratum["smallest_pvalue"],
         stratum["frames"] or "-", "-" if entry["gain"] is None else entry["gain"])
        for key, entry in sorted(known.items(), key=lambda item: (item[0] == "", item[0]))
        for stratum in entry["strata"]
    ]  # fmt: skip
    columns = ("camera", "filter", "sky", "patches", "smallest p-value", "frames", "gain (e-/count)")
    session.table("calibrated for", columns, rows)
    for note in facts["notes"]:  # the notes of the calibrations included
        session.emit(f"note: {note}")


def _names(key: str) -> tuple[str, str]:
    """Camera and filter of a calibration key, as text where they are empty."""
    if not key:
        return "any other", "any other"
    camera, _, band = key.partition("|")
    return camera or "unknown", band or "unknown"


def _calibration(calibration: Calibration) -> dict[str, Any]:
    """Facts about one calibration as plain JSON; None or empty where the method has none."""
    facts = calibration.facts
    about, noise = facts.get("about", {}), facts.get("noise", {})
    return {
        "patches": facts.get("patches"),
        "smallest_pvalue": facts.get("smallest_pvalue"),
        "frames": [frame for members in about.get("frames", {}).values() for frame in members],
        "gain": 1 / noise["b"] if noise.get("b", 0) > 0 else None,
        "gain_from": noise.get("source"),
        "notes": about.get("notes", []),
        "strata": _strata(facts),
    }


def _strata(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sky range, patches, smallest p-value and number of frames of each sky stratum, darkest first."""
    chain, limits = [facts], []
    while "brighter" in chain[-1]:
        limits.append(chain[-1]["brighter"]["limit"])
        chain.append(chain[-1]["brighter"]["facts"])
    skies = [f"up to {limits[0]:.4g}" if limits else "any", *(f"above {limit:.4g}" for limit in limits)]
    # The stored frames of the darkest stratum include those of the others.
    counts = [sum(map(len, one.get("about", {}).get("frames", {}).values())) for one in chain]
    counts[0] -= sum(counts[1:])
    return [
        {"sky": sky, "frames": count, **{name: one.get(name) for name in ("patches", "smallest_pvalue")}}
        for sky, count, one in zip(skies, counts, chain, strict=True)
    ]


def _origin(bundle: Bundle) -> dict[str, str]:
    """Training frames, options, held-out losses, and the digest of the model before its calibration."""
    from aqdask.methods.training.settings import OPTIONS

    found = {}
    if frames := bundle.provenance.get("frames"):
        found["trained on"] = (
            frames if isinstance(frames, str) else plural(sum(map(len, frames.values())), "frame")
        )
    settings = bundle.provenance.get("settings", {})
    options = {name: settings[name] for name in ("loss", *OPTIONS) if settings.get(name, "mse") != "mse"}
    if options:
        found["training options"] = ", ".join(f"{name} {value}" for name, value in options.items())
    if losses := bundle.provenance.get("held_out"):
        found["held-out loss"] = ", ".join(
            f"{name} {one['trained']:.4g} (as shipped {one['shipped']:.4g})" for name, one in losses.items()
        )
    if origin := bundle.provenance.get("adapted_from"):
        found["calibrated from"] = f"sha256 {origin[:16]}..."
    given = [bundle.provenance, *bundle.provenance.get("adapted", [])]
    if labels := [one["labels"] for one in given if one.get("labels")]:
        frames = sum(len(one.get("frames_left_out", ())) for one in labels)
        boxes = sum(len(boxes) for one in labels for boxes in one.get("boxes_left_out", {}).values())
        found["labels"] = (
            f"{plural(frames, 'frame')} and {plural(boxes, 'box', 'boxes')} labelled bad, left out"
        )
    return found
