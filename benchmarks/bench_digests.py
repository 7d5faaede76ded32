"""Digests of every array that the main job stores, with a given source tree of the package.

    git worktree add ../old 3d02b68
    python benchmarks/bench_digests.py ../old --frames /tmp/frames --out before.json
    python benchmarks/bench_digests.py . --frames /tmp/frames --out after.json
    python benchmarks/bench_digests.py --compare before.json after.json [--expect 'main/*@attrs']

A refactoring shows with it which stored arrays it changed. The package runs in processes of its own, through
the command line alone, so that trees whose modules have other names can be compared. Everything is serial and
has one thread. Exit code of a comparison: 0 where only what `--expect` names differs, else 1; 2 where the
source frames differ. See README.md here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr
from astropy.io import fits
from bench_pair import commit_of
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = (ROOT / os.environ.get("AQDASK_TEST_DATA", "../shared/data")).resolve()
REAL = ("bsu_2022yid", "cloudynight", "formats", "bad_inputs", "trails")  # folders of DATA that are read
PACKAGES = ("numpy", "torch", "zarr", "astropy")
FRAMES, SIZE, SEED = 24, 768, 5  # the fewest and smallest from which `select` proposes alike frames
REFERENCES = "--frames frame_00* --frames frame_01[0-5]*"  # sixteen: no feature group is disabled
UNREAD = ".truth"  # beside simulated frames; no scan takes it, and gzip stores the time in it
MOST = 8  # names of arrays in a cell of the table

# Commands of each part, in order, run in a folder of the part's name. A command that a tree does not know
# fails, which its exit code shows, and the parts go on.
PARTS: dict[str, tuple[str, ...]] = {
    "main": (
        "ingest {frames}/night night.zarr",
        "select night.zarr --out good.txt",
        f"calibrate night.zarr --model wide-field {REFERENCES} --out camera.safetensors",
        "score night.zarr --model camera.safetensors",
        "mask night.zarr --alpha 0.01 --out mask.zarr",
        "export night.zarr products --alpha 0.01",
        "verify night.zarr",
    ),
    "two_sided": (
        "calibrate ../main/night.zarr --two-sided --model wide-field --frames @../main/good.txt"
        " --out two_sided.safetensors",
        "score ../main/night.zarr --model two_sided.safetensors",
        "compare ../main/night.zarr --model camera --model two_sided",
    ),
    "paper": (
        "train ../main/night.zarr --method paper --steps 30 --frames @../main/good.txt"
        " --out paper.safetensors",
        "score ../main/night.zarr --model paper.safetensors",
    ),
    "trained": (
        "train ../main/night.zarr --steps 30 --frames @../main/good.txt --out trained.safetensors",
        "score ../main/night.zarr --model trained.safetensors",
        "verify ../main/night.zarr",  # now with four models
    ),
    "run": ("run {frames}/night night.zarr --model wide-field", "verify night.zarr"),
    "added": (  # half of the night, then all of it
        "ingest {frames}/night/frame_00*.fits night.zarr",
        "score night.zarr --model ../main/camera.safetensors",
        "ingest {frames}/night night.zarr",
        "score night.zarr --model ../main/camera.safetensors",
    ),
    "no_pixels": (
        "ingest {frames}/night night.zarr --no-pixels",
        "score night.zarr --model ../main/camera.safetensors",
        "export night.zarr products --alpha 0.01",
        "verify night.zarr",
    ),
    "bad_pixels": (
        "ingest {frames}/night night.zarr --bad-pixel-map {frames}/bad.fits --chunk 256 --codec zstd",
        "score night.zarr --model ../main/camera.safetensors",
        "export night.zarr products --alpha 0.01",
    ),
    "float32": (
        "ingest {frames}/float32 night.zarr --hdu SCI --mask-hdu DQ:0",
        "score night.zarr --model ../main/camera.safetensors",
        "export night.zarr products --alpha 0.01",
    ),
    "real": (  # two cameras, one of them without a calibration, and two filters
        "ingest {data}/bsu_2022yid {data}/cloudynight night.zarr --by-shape",
        "select night-1023x1536-uint16.zarr --out good.txt",
        "calibrate night-1023x1536-uint16.zarr --model wide-field --frames L/* --frames R/*"
        " --out bsu.safetensors",
        "score night-1023x1536-uint16.zarr --model bsu.safetensors",
        "score night-1040x1392-uint16.zarr --model bsu.safetensors",
        "export night-1023x1536-uint16.zarr products --alpha 0.01",
    ),
    "odd": ("ingest {data}/formats {data}/bad_inputs {data}/trails odd.zarr --by-shape",),
}

# Left out, since two runs of one tree differ in it, or two releases that store the same:
SKIPPED_GROUPS = ("ledger",)  # clock times, seconds, time stamps of the sources
SKIPPED_ARRAYS = ("bundle",)  # the model as one file, with its versions; its tensors are digested apart
SKIPPED_KEYS = ("versions", "created_by", "model_sha256", "digest", "checksum")  # of JSON and attributes
SKIPPED_CARDS = ("CHECKSUM", "DATASUM", "ORIGIN", "MODELSHA")  # clock times in comments, versions, digests

Digests = dict[str, dict[str, str]]  # by group, then by array


def sha(*parts: bytes | str) -> str:
    """The first 12 digits of the sha256 of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:12]


class Normaliser:
    """Text without host paths and digests of models, which differ between runs that store the same.

    Parameters
    ----------
    places : mapping of str to Path
        Folders by the word that stands for them.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self.places = places

    def text(self, text: str) -> str:
        """The text with words in place of folders, and without digests."""
        for word, place in self.places.items():
            text = text.replace(str(place), word)
        return re.sub(r"-[0-9a-f]{8}(?![0-9a-f])|\b[0-9a-f]{64}\b", "", text)

    def value(self, value: Any) -> Any:
        """Plain JSON with its texts normalised, without the keys of `SKIPPED_KEYS`."""
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items() if key not in SKIPPED_KEYS}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def json(self, value: Any) -> str:
        """Digest of plain JSON."""
        return sha(json.dumps(self.value(value), sort_keys=True, default=str))

    def array(self, array: np.ndarray) -> str:
        """Digest of the type, the shape and the values of an array."""
        if array.dtype.kind in "OTU":
            return sha("text", str(array.shape), *(self.text(str(text)) for text in array.flat))
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return sha(native.dtype.str, str(native.shape), native.tobytes())


# --- frames ---------------------------------------------------------------------------------------------


def draw_frames(folder: Path) -> None:
    """Write the simulated frames below ``folder``, unless it exists; the tree that is digested takes no part.

    ``night`` has uint16 frames, ``bad.fits`` marks bad pixels of all of them, ``float32`` has some of them as
    multi-extension files with NaN and a DQ image.
    """
    if folder.exists():
        return
    whole, folder = folder, folder.with_name(f"{folder.name}.partial")
    words = ["simulate", str(folder / "night"), "--frames", str(FRAMES), "--size", str(SIZE)]
    done = aqdask(ROOT, [*words, "--seed", str(SEED), "--cluster", "serial", "--quiet"], ROOT)
    if done.returncode:
        raise SystemExit(f"the frames could not be simulated: {done.stderr}")
    bad = np.zeros((SIZE, SIZE), np.uint8)
    bad[:, 100], bad[300:340, 500:560] = 1, 2
    fits.PrimaryHDU(bad).writeto(folder / "bad.fits", overwrite=True)
    (folder / "float32").mkdir(exist_ok=True)
    for path in sorted((folder / "night").glob("*.fits"))[::3]:
        image, header = fits.getdata(path, header=True)
        science = fits.ImageHDU(image.astype(np.float32), header, name="SCI")
        science.data[200:230, 40:90] = np.nan
        quality = fits.ImageHDU(np.zeros(image.shape, np.int16), name="DQ")
        quality.data[400:420, 400:420], quality.data[600:, 600:] = 1, 8
        fits.HDUList([fits.PrimaryHDU(), science, quality]).writeto(
            folder / "float32" / path.name, overwrite=True
        )
    folder.rename(whole)


def digests_of_sources(frames: Path) -> dict[str, str]:
    """One digest for each folder that is read, over names and contents."""
    folders = {"simulated": frames} | {name: DATA / name for name in REAL if (DATA / name).is_dir()}
    found = {}
    for name, folder in folders.items():
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != UNREAD)
        contents = (part for path in files for part in (str(path.relative_to(folder)), path.read_bytes()))
        found[name] = sha(*contents)
    return found


# --- the job --------------------------------------------------------------------------------------------


def aqdask(tree: Path, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m aqdask`` of a source tree, in a folder, with one thread."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-W", "ignore", "-m", "aqdask", *words]
    return subprocess.run(command, cwd=folder, env=os.environ | one, capture_output=True, text=True)


def check_tree(tree: Path) -> None:
    """Refuse a tree whose package is not the one that is imported."""
    code = "import aqdask; print(aqdask.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True).stdout.strip()
    if not Path(found).is_relative_to(tree):
        raise SystemExit(f"{tree} holds no package aqdask: {found or 'nothing'} is imported")


def run_part(tree: Path, part: str, folder: Path, places: Mapping[str, Path], same: Normaliser) -> Digests:
    """Run the commands of a part; exit code of each, and digest of what it said in JSON."""
    folder.mkdir()
    said: dict[str, str] = {}
    for number, line in enumerate(PARTS[part], 1):
        words = [word.format_map(places) for word in shlex.split(line)]
        done = aqdask(tree, [*words, "--cluster", "serial", "--quiet", "--json"], folder)
        name = f"{number} {words[0]}"
        events = [json.loads(event) for event in done.stdout.splitlines() if event.startswith("{")]
        said |= {f"{name}@exit": str(done.returncode), f"{name}@json": same.json(events)}
        if done.returncode not in (0, 1):
            print(f"{part}, {line}: exit code {done.returncode}\n{done.stderr}", file=sys.stderr)
    return {f"{part}/commands": said}


def run_parts(tree: Path, frames: Path, work: Path, only: list[str]) -> Digests:
    """Run all parts with a tree, and digest what is stored; seconds of each part are printed."""
    places = {"frames": frames, "data": DATA}
    same = Normaliser({"WORK": work, "FRAMES": frames, "DATA": DATA})
    digests: Digests = {}
    for part in only or PARTS:
        begin = time.perf_counter()
        if any("{data}" in line for line in PARTS[part]) and not DATA.is_dir():
            print(f"{part:12} left out: no real frames (AQDASK_TEST_DATA)", file=sys.stderr)
            continue
        digests |= run_part(tree, part, work / part, places, same)
        print(f"{part:12} {time.perf_counter() - begin:5.0f} s", file=sys.stderr)
    for place in sorted(work.glob("*/**/*")):
        if not any(parent.suffix == ".zarr" for parent in place.parents):
            digests |= digests_of(place, work, same)
    return digests


# --- digests of what is stored --------------------------------------------------------------------------


def digests_of(place: Path, work: Path, same: Normaliser) -> Digests:
    """Digests of an archive, a bundle, a DQ image, a table of frames or a list of frames, by group."""
    name = str(place.relative_to(work))
    if place.suffix == ".zarr":
        return digests_of_zarr(place, name, same)
    if place.suffix == ".safetensors":
        return {name: digests_of_bundle(place, same)}
    if place.suffix == ".fits":
        return {name: digests_of_fits(place, same)}
    if place.suffix == ".parquet":
        return {name: digests_of_table(place, same)}
    # frames.ecsv holds the table of frames.parquet once more
    return {name: {"lines": same.json(place.read_text().split())}} if place.suffix == ".txt" else {}


def digests_of_zarr(place: Path, name: str, same: Normaliser) -> Digests:
    """Decoded values of every array; attributes of groups and arrays apart, with dimension names."""
    root = zarr.open_group(place, mode="r", use_consolidated=False)
    digests: defaultdict[str, dict[str, str]] = defaultdict(dict)
    digests[name]["@attrs"] = same.json(dict(root.attrs))
    for path, member in root.members(max_depth=None):
        group, _, array = same.text(path).rpartition("/")
        if path.partition("/")[0] in SKIPPED_GROUPS or array in SKIPPED_ARRAYS:
            continue
        inside = digests["/".join(filter(None, (name, group)))]
        if isinstance(member, zarr.Array):
            inside[array] = same.array(np.asarray(member[...]))
            about = [
                dict(member.attrs),
                getattr(member.metadata, "dimension_names", None),
                str(member.fill_value),
            ]
            inside[f"{array}@attrs"] = same.json(about)
        else:
            inside[f"{array}@attrs"] = same.json(dict(member.attrs))
    return dict(digests)


def digests_of_bundle(place: Path, same: Normaliser) -> dict[str, str]:
    """Every tensor of a model bundle, and every key of its JSON document."""
    with safe_open(place, "numpy") as stored:
        digests = {name: same.array(stored.get_tensor(name)) for name in stored.keys()}  # noqa: SIM118
        for word, text in (stored.metadata() or {}).items():
            for key, value in json.loads(text).items():
                if key not in SKIPPED_KEYS:
                    digests[f"{word}.{key}"] = same.json(value)
    return digests


def digests_of_fits(place: Path, same: Normaliser) -> dict[str, str]:
    """Data and header of every HDU."""
    digests = {}
    with fits.open(place) as hdus:
        for hdu in hdus:
            cards = [card for card in hdu.header.cards if card.keyword not in SKIPPED_CARDS]
            digests[f"{hdu.name}@attrs"] = same.json([list(card) for card in cards])
            if hdu.data is not None:
                digests[hdu.name] = same.array(hdu.data)
    return digests


def digests_of_table(place: Path, same: Normaliser) -> dict[str, str]:
    """Every column, and its metadata apart."""
    table = pq.read_table(place)
    digests = {"@attrs": same.json(table.column_names)}
    for column in table.schema:
        values = [str(column.type), table[column.name].to_pylist()]
        digests[column.name] = same.json(values)
        about = {key.decode(): text.decode() for key, text in (column.metadata or {}).items()}
        digests[f"{column.name}@attrs"] = same.json(about)
    return digests


# --- comparison -----------------------------------------------------------------------------------------


def differences(before: Digests, after: Digests) -> Iterator[tuple[str, str, str]]:
    """``(group, array, fate)`` of every array; fates are equal, changed, added and removed."""
    for group in sorted(before.keys() | after.keys()):
        old, new = before.get(group, {}), after.get(group, {})
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                yield group, name, "added" if name in new else "removed"
            else:
                yield group, name, "equal" if old[name] == new[name] else "changed"


def report(before: dict[str, Any], after: dict[str, Any], expect: list[str]) -> tuple[str, int]:
    """The comparison in Markdown, and how many differences nobody expected."""
    counts: defaultdict[str, int] = defaultdict(int)
    names: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    surprises = 0
    for group, name, fate in differences(before["digests"], after["digests"]):
        counts[fate] += 1
        if fate != "equal":
            intended = any(fnmatchcase(f"{group}/{name}", pattern) for pattern in expect)
            surprises += not intended
            names[group, fate, "yes" if intended else "no"].append(name)
    rows = []
    for (group, fate, expected), found in names.items():
        more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
        rows.append([group, fate, expected, ", ".join(f"`{name}`" for name in found[:MOST]) + more])
    lines = [f"- {side}: {', '.join(content['about'].values())}" for side, content in
             (("before", before), ("after", after))]  # fmt: skip
    lines += [f"- expected: {' '.join(f'`{pattern}`' for pattern in expect) or 'nothing'}"]
    lines += ["- " + ", ".join(f"{counts[fate]} {fate}" for fate in ("equal", "changed", "added", "removed"))]
    if rows:
        rows = [["group", "fate", "expected", "arrays"], ["---"] * 4, *rows]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return "# bench_digests\n\n" + "\n".join(lines) + "\n" + f"\n{table}" * bool(table), surprises


def compare(arguments: argparse.Namespace) -> int:
    """Print the comparison, and write it where a file was asked for."""
    before, after = (json.loads(path.read_text()) for path in arguments.compare)
    if before["sources"] != after["sources"]:
        changed = sorted(k for k, _ in set(before["sources"].items()) ^ set(after["sources"].items()))
        print(f"the source frames differ, nothing can be compared: {', '.join(changed)}", file=sys.stderr)
        return 2
    for content in (before, after):
        content["digests"] = {
            group: names
            for group, names in content["digests"].items()
            if not arguments.only or group.partition("/")[0] in arguments.only
        }
    text, surprises = report(before, after, arguments.expect)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    return 1 if surprises else 0


def take(arguments: argparse.Namespace) -> int:
    """Run the parts with the tree, and write the digests."""
    tree = arguments.tree.resolve()
    check_tree(tree)
    with tempfile.TemporaryDirectory(prefix="aqdask-digests-") as name:
        scratch = Path(name).resolve()
        frames = (arguments.frames or scratch / "frames").resolve()
        draw_frames(frames)
        work = scratch / "work"
        work.mkdir()
        digests = run_parts(tree, frames, work, arguments.only)
        content = {
            "about": {
                "commit": commit_of(tree),
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
                "packages": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
            },
            "sources": digests_of_sources(frames),
            "digests": digests,
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")
    total = sum(len(group) for group in digests.values())
    print(f"{arguments.out}: {total} digests in {len(digests)} groups")
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path, nargs="?", help="directory that holds the package aqdask/")
    parser.add_argument("--out", type=Path, help="digests (JSON), or the comparison (Markdown)")
    parser.add_argument("--frames", type=Path, help="simulated frames, drawn where the folder is not there")
    parser.add_argument("--only", action="append", default=[], choices=list(PARTS), help="a part; repeatable")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--expect", action="append", default=[], metavar="GLOB",
                        help="differences that are intended, as group/array; repeatable")  # fmt: skip
    arguments = parser.parse_args()
    if (arguments.tree is None) == (arguments.compare is None):
        parser.error("give either a tree or --compare")
    if arguments.tree is not None and arguments.out is None:
        parser.error("a tree needs --out")
    return arguments


def main() -> int:
    """Take digests, or compare them."""
    arguments = parse()
    return compare(arguments) if arguments.compare else take(arguments)


if __name__ == "__main__":
    sys.exit(main())
