"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archive import verdict
from evaluate import ALPHA, ALPHAS
from methods import NAMES
from metrics import Estimate


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    """A table with its title and a note."""
    lines = [f"### {title}", ""]
    lines += [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join([*lines, *(["", note] if note else []), ""])


def _text(found: Mapping[str, float], digits: int = 3) -> str:
    return Estimate(found["value"], found["error"]).text(digits)


def conditions(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of conditions: AUROC with its error and, in brackets, recall."""
    table = []
    for row in rows:
        cells = [
            f"{_text(row['methods'][name]['auroc'])} [{row['methods'][name]['recall']['value']:.2f}]"
            for name in NAMES
        ]
        mark = " †" if row.get("two_sided") else ""
        goal = "-" if row["goal"] is None else row["goal"]
        counts = row.get("frames", ""), row.get("patches", "")
        table.append((f"{row['condition']}{mark}", *counts, *cells, goal, row["verdict"]))
    note = (
        f"AUROC of affected patches against all patches of clean frames, ± its jackknife error over frames; "
        f"in brackets recall at alpha {ALPHA:g}. Levels of background are rms fractions of the sky. † "
        "`aqdask` with `two_sided`. 'no goal': beyond what a patch score can find."
    )
    return markdown("Conditions", ("condition", "frames", "patches", *NAMES, "goal", "aqdask"), table, note)


def untouched(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Untouched patches beside defects."""
    rows = [(name, one["frames"], one["patches"], _text(one, 4)) for name, one in found.items()]
    title = f"Untouched patches of frames with a local defect, masked at alpha {ALPHA:g}"
    return markdown(title, ("method", "frames", "patches", "masked"), rows)


def false_masks(rows: Sequence[Mapping[str, Any]]) -> str:
    """False masks: mean with its error, and the worst frame."""
    alphas = [f"{alpha:g}" for alpha in ALPHAS]
    table = [
        (row["frames"], row["method"], row["count"], *(_false(row[alpha]) for alpha in alphas))
        for row in rows
    ]
    columns = ("good frames", "method", "frames", *(f"alpha {alpha}" for alpha in alphas))
    return markdown("Good patches masked: mean ± error over frames (worst frame)", columns, table)


def _false(found: Mapping[str, float]) -> str:
    return f"{_text(found, 4)} ({found['worst']:.3f})"


def sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Spearman of size against FWHM."""
    table = [
        (r["method"], r["region"], r["frames"], _text(r["spearman"], 4), r["goal"] or "-", r["verdict"])
        for r in rows
    ]
    columns = ("method", "region", "frames", "Spearman", "goal", "")
    return markdown("Signed size of the stars against the true FWHM", columns, table)


def sweep(title: str, steps: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """AUROC and recall by step of a sweep; ``keys`` are the columns that identify the step."""
    names = list(steps[0]["methods"])
    table = []
    for step in steps:
        cells = [
            f"{_text(step['methods'][n]['auroc'])} [{step['methods'][n]['recall']['value']:.2f}]"
            for n in names
        ]
        table.append((*(f"{step[key]:g}" for key in keys), step["frames"], *cells))
    return markdown(title, (*keys, "frames", *names), table)


def trends(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Spearman of the scores of the FWHM sweep."""
    rows = [(name, _text(one["trend"]), _text(one["novelty"])) for name, one in found.items()]
    columns = ("method", "score and FWHM", "score and distance from the reference")
    return markdown("FWHM sweep: Spearman of patch scores", columns, rows)


def photometry(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Photometry and detections behind masks."""
    table = []
    for row in rows:
        found = row["detections"]
        table.append(
            (
                row["frames"],
                row["count"],
                row["mask"],
                row["stars"],
                f"{row['rms']:.4f}",
                f"{row['ratio']:.2f}",
                f"{row['lost']:.4f}",
                found["spurious_kept"],
                found["real_kept"],
                verdict(row),
            )
        )
    columns = (
        "frames",
        "number",
        "mask",
        "stars left",
        "rms [mag]",
        "of the true mask's",
        "untouched patches masked",
        "spurious left",
        "real left",
        "goals",
    )
    return markdown(f"{title}, masks at alpha {ALPHA:g}", columns, table)


def differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """Candidates of difference images that masks leave."""
    table = []
    for row in rows:
        found = row["detections"]
        counts = (
            found["spurious_kept"],
            found["real_kept"],
            found["real"] - found["real_kept"],
            found["known"],
        )
        table.append((row["pairs"], row["mask"], *counts))
    columns = ("pairs of epochs", "mask", "spurious left", "transients left", "transients lost", "of all")
    return markdown(f"Difference images, masks at alpha {ALPHA:g}", columns, table)


def ablation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Metrics without each part."""
    first = rows[0]
    table = [
        (
            row["variant"],
            _text(row["auroc"]),
            f"{row['auroc']['value'] - first['auroc']['value']:+.3f}",
            f"{row['recall']['value']:.3f}",
            f"{row['recall']['value'] - first['recall']['value']:+.3f}",
            _text(row["false"], 4),
            _hurt(row["rows"], first["rows"]),
        )
        for row in rows
    ]
    columns = ("variant", "AUROC", "change", "recall", "change", "clean masked", "largest losses of AUROC")
    return markdown(f"Ablation, mean of {first['conditions']} conditions", columns, table)


def _hurt(rows: Mapping[str, float], first: Mapping[str, float]) -> str:
    losses = sorted((rows[name] - first[name], name) for name in rows)[:2]
    return ", ".join(f"{name} {loss:+.2f}" for loss, name in losses if loss < -0.005) or "-"


def references(rows: Sequence[Mapping[str, Any]]) -> str:
    """Outcomes of sets of reference frames."""
    counted = ("kind", "bad", "frames", "sets", "refused", "named", "some", "wrong", "looked")
    columns = (
        "defect",
        "bad",
        "frames",
        "sets",
        "refused",
        "named",
        "named in part",
        "good named",
        "look at",
    )
    note = (
        "Counts of sets. 'named': the error names the bad frames and no other; 'in part': some of them; 'look"
        " at': the set is taken, and a note names a bad frame (of a good set: any)."
    )
    return markdown("Bad reference frames", columns, [[row[name] for name in counted] for row in rows], note)


def cost(found: Mapping[str, Any]) -> str:
    """Seconds, GMAC and memory."""
    seconds, macs = found["seconds"], found["gmac"]
    total = sum(seconds.values())
    rows = [
        (name, f"{value:.3f}", f"{value / total:.0%}", _macs(name, macs)) for name, value in seconds.items()
    ]
    rows.append(("sum of the parts", f"{total:.3f}", "", f"{sum(macs.values()):.1f}"))
    rows += [(name, f"{times['processor']:.3f}", "", "") for name, times in found["whole"].items()]
    peaks = ", ".join(f"{peak:.0f} MiB after a frame of {size}" for size, peak in found["peak_mib"].items())
    parameters = ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items())
    note = (
        f"Peak resident memory of a process: {peaks}. Parameters: {parameters}. Median of {found['repeat']}."
    )
    title = f"Cost of a frame of {found['size']} px a side, one thread"
    return markdown(title, ("part", "processor s", "share", "GMAC"), rows, note)


def _macs(name: str, macs: Mapping[str, float]) -> str:
    key = "lines" if "rows_square" in name else name
    return f"{macs[key]:.1f}" if key in macs else ""
