"""astropy's lazy ``fits.open`` in the place of the package's own walk over the HDUs of a file.

    python benchmarks/bench_fits_open.py ../shared/data [--out benchmarks/results/fits_open.md]

Both readers get the same bytes in memory, decompressed by this package, and apply the same rule: the first
2-D image that is no look-up table. Files: all of the folder, the frames that its ``trouble/make_trouble.py``
writes, and small images with one damaged card each. An outcome is pixels, or the reason for none.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits
from helpers import environment

from aqdask.errors import FrameError
from aqdask.io.hdus import LOOKUP_TABLES, LazyHdus, select_images
from aqdask.io.reader import load_bytes, probe, read_frame
from aqdask.io.streams import decompress, open_stream
from aqdask.specs import ReadSpec

REPEAT = 5  # of the timing; the median counts
SKIPPED = {".py", ".md", ".json"}
SHOWN = 12  # files that are named for an outcome
STORED = np.array([[-32768, 0, 5], [7, 8, 9]], ">i2").tobytes()
IMAGE_CARDS = ("BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 3", "NAXIS2  = 2")
DAMAGED_CARDS = (
    "BZERO   = 32768,0", "BZERO   = 32 768", "BZERO   =", "BZERO   = '32768'", "BZERO   = T",
    "BZERO   = 1E999",
    "BZERO     32768", "BZERO: 32768", "BZERO   =32768", "bzero   = 32,768", "HIERARCH BZERO = 32,768",
    "BSCALE  = 0,5", "BSCALE  = 0", "BSCALE  = NaN", "BLANK   = -32768L", "BLANK   = 1.5", "BLANK   = 'none'",
    "PCOUNT  = 0x0", "GCOUNT  = 1,0", "GCOUNT  = -1", "PCOUNT  = -6", "GROUPS  = TRUE", "NAXIS1  = 4",
    "BITPIX  = 8", "NAXIS2  = 2 2", "SIMPLE  = F", "NAXIS1  = 100000",
)  # fmt: skip
OUTCOMES = {
    "same": "the same pixels",
    "same reason": "the same reason for no frame",
    "poorer reason": "no frame either, but an exception in the place of the reason",
    "lost": "no frame where the own walk gives one",
    "other pixels": "other pixels",
    "taken": "pixels of a file that the own walk refuses",
}
Outcome = np.ndarray | str | Exception


def by_walk(path: Path) -> Outcome:
    """Return the valid pixels (NaN elsewhere) of the first frame, or the reason why there is none."""
    try:
        (info,) = probe(path, ReadSpec())
        frame = read_frame(path, info.hdu, ReadSpec())
    except FrameError as error:
        return str(error)
    pixels = frame.image.astype(float)
    pixels[frame.invalid if frame.invalid is not None else ...] *= np.nan if frame.invalid is not None else 1
    return pixels


def by_astropy(path: Path) -> Outcome:
    """Return the same by `astropy.io.fits`; an exception of astropy itself is returned."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(
                io.BytesIO(decompress(load_bytes(path))), memmap=False, lazy_load_hdus=True
            ) as file:
                hdu = first_image(file)
                return "" if hdu is None else np.array(hdu.data, dtype=float).reshape(hdu.shape[-2:])
    except Exception as error:  # whatever astropy raises is the finding
        return error


def first_image(file: fits.HDUList) -> fits.hdu.base.ExtensionHDU | None:
    """Return the first 2-D image of an open file, by the rule of `aqdask.io.hdus`."""
    index = 0
    while True:
        try:
            hdu = file[index]  # reads no further than this HDU
        except IndexError:
            return None
        is_plane = (
            hdu.is_image and len(hdu.shape) >= 2 and 0 not in hdu.shape and np.prod(hdu.shape[:-2]) == 1
        )
        if is_plane and hdu.name not in LOOKUP_TABLES and hdu.header.get("SIMPLE", True):
            return hdu
        index += 1


def compare(walk: Outcome, astropy: Outcome) -> str:
    """Name the outcome of a file, a key of `OUTCOMES`."""
    if isinstance(walk, np.ndarray) and isinstance(astropy, np.ndarray):
        valid = np.isfinite(walk) if walk.shape == astropy.shape else np.zeros(1, bool)
        same = walk.shape == astropy.shape and np.array_equal(walk[valid], astropy[valid])
        return "same" if same else "other pixels"
    if isinstance(walk, np.ndarray):
        return "lost"
    if isinstance(astropy, np.ndarray):
        return "taken"
    return "same reason" if isinstance(astropy, str) else "poorer reason"


def files(data: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file with the name of its set."""
    yield from (("real files", path) for path in sorted(data.rglob("*")))
    spec = importlib.util.spec_from_file_location("make_trouble", data / "trouble" / "make_trouble.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, make in module.KINDS.items():
            (scratch / kind).mkdir()
            make(scratch / kind)
    yield from (("trouble frames", path) for path in sorted(scratch.rglob("*")))
    (scratch / "cards").mkdir()
    for number, card in enumerate(DAMAGED_CARDS):
        path = scratch / "cards" / f"{number:02} {card.replace('/', ' ')}"
        lines = ("SIMPLE  =                    T", *IMAGE_CARDS, card, "END")
        path.write_bytes(
            "".join(line.ljust(80) for line in lines).encode().ljust(2880) + STORED.ljust(2880, b"\0")
        )
        yield "damaged cards", path


def seconds(read: Callable[[], object]) -> float:
    """Return the median wall time of a call in seconds."""
    times = []
    for _ in range(REPEAT):
        began = time.perf_counter()
        read()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def headers_by_walk(path: Path) -> None:
    """Find the first image as `by_walk` does, without its pixels."""
    with open_stream(path) as stream:
        select_images(LazyHdus(stream), ReadSpec())


def headers_by_astropy(path: Path) -> None:
    """Find the first image as `by_astropy` does, without its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False, lazy_load_hdus=True) as file:
            first_image(file)


def report(found: dict[str, dict[Path, tuple[str, Outcome, Outcome]]], times: dict[str, float]) -> str:
    """Return the tables as Markdown."""
    lines = ["# bench_fits_open", "", *(f"- {key}: {value}" for key, value in environment().items()), ""]
    lines += ["`fits.open` beside the own walk; number of files:", ""]
    lines += ["| | " + " | ".join(found) + " |", "| --- |" + " --: |" * len(found)]
    for outcome, meaning in OUTCOMES.items():
        counts = [Counter(entry[0] for entry in one.values())[outcome] for one in found.values()]
        lines.append(f"| {meaning} | " + " | ".join(map(str, counts)) + " |")
    for outcome in list(OUTCOMES)[2:]:
        entries = [(p, w, a) for one in found.values() for p, (o, w, a) in one.items() if o == outcome]
        lines += (
            ["", f"{OUTCOMES[outcome].capitalize()} ({len(entries)}), for example:", ""] if entries else []
        )
        lines += [f"- `{p.name}`: {_shown(w)}; astropy: {_shown(a)}" for p, w, a in entries[:SHOWN]]
    lines += ["", "Finding the first image of the uncompressed real files, median of the files:", ""]
    lines += [f"- {name}: {1e3 * value:.2f} ms" for name, value in times.items()]
    return "\n".join(lines) + "\n"


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, np.ndarray):
        return f"{outcome.shape[0]} x {outcome.shape[1]} px"
    text = " ".join(str(outcome).split())
    text = text[:110] + ("..." if len(text) > 110 else "")
    return f"{type(outcome).__name__} `{text}`" if isinstance(outcome, Exception) else f"`{text}`"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("data", type=Path, help="folder of FITS files, with trouble/make_trouble.py")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fits_open.md")
    given = options.parse_args()
    found: dict[str, dict[Path, tuple[str, Outcome, Outcome]]] = {}
    with tempfile.TemporaryDirectory(prefix="aqdask-bench-") as scratch:
        for kind, path in files(given.data, Path(scratch)):
            if path.is_file() and path.suffix not in SKIPPED:
                walk, astropy = by_walk(path), by_astropy(path)
                found.setdefault(kind, {})[path] = compare(walk, astropy), walk, astropy
    whole = [path for path, entry in found["real files"].items() if entry[0] == "same" and is_plain(path)]
    times = {
        "own walk": statistics.median(seconds(lambda path=path: headers_by_walk(path)) for path in whole),
        "fits.open": statistics.median(seconds(lambda path=path: headers_by_astropy(path)) for path in whole),
    }
    given.out.write_text(report(found, times), encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))


def is_plain(path: Path) -> bool:
    """Tell if a file is uncompressed FITS."""
    with path.open("rb") as file:
        return file.read(6) == b"SIMPLE"


if __name__ == "__main__":
    main()
