"""FITS files for the tests, by astropy, or card by card where astropy refuses; and ways to read them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

from aqdask.io.reader import probe, read_frame
from aqdask.specs import ReadSpec

FIRST, ALL = ReadSpec(), ReadSpec(hdu="all")


RNG = np.random.default_rng(20260501)


IMAGE = RNG.integers(0, 2**16, (30, 41)).astype("uint16")


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(path, output_verify="ignore", overwrite=True)
    return path


def content(*hdus: fits.hdu.base.ExtensionHDU) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def cards(*lines: str, data: bytes = b"", simple: str = "SIMPLE  =                    T") -> bytes:
    """A file with these cards, and the data padded to whole blocks."""
    header = "".join(line.ljust(80) for line in (simple, *lines, "END"))
    return header.ljust(-(-len(header) // 2880) * 2880).encode("latin-1") + data + bytes(-len(data) % 2880)


INTEGERS = tuple(f"{key:8}= {value:20}" for key, value in
                 {"BITPIX": 16, "NAXIS": 2, "NAXIS1": 3, "NAXIS2": 2}.items())  # fmt: skip


STORED = np.array([[-32768, 0, 5], [7, 8, 9]], ">i2").tobytes()


def both(path: Path, read: ReadSpec = FIRST) -> list[Callable[[], object]]:
    return [lambda: probe(path, read), lambda: read_frame(path, 0, read)]


def alone(call: str, limit: int = 600 << 20) -> str:
    """What a fresh process prints that may have ``limit`` bytes more than the imports took."""
    code = (
        "import resource, sys, time\n"
        "from aqdask.io.reader import probe, read_frame\n"
        "from aqdask.errors import FrameError\nfrom aqdask.specs import ReadSpec\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {limit}, used + {limit}))\n"
        f"try:\n    print({call})\nexcept FrameError as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def planes(plane: np.ndarray, names: dict[str, int], **other: object) -> list:
    """An image with its mask plane, whose header names bits as LSST does."""
    mask = fits.ImageHDU(plane, name="MASK")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, bit in names.items():
            mask.header["MP_" + name] = bit
        for key, value in other.items():
            mask.header[key] = value
    return [fits.PrimaryHDU(), fits.ImageHDU(np.ones(plane.shape, "f4"), name="IMAGE"), mask]


def write_text(path: Path) -> Path:
    path.write_text("no FITS")
    return path


def claim(y: int, x: int, bitpix: int = 16, *more: str, data: bytes = b"") -> bytes:
    lines = [
        f"BITPIX  = {bitpix:20d}",
        "NAXIS   =                    2",
        f"NAXIS1  = {x:20d}",
        f"NAXIS2  = {y:20d}",
    ]
    return cards(*lines, *more, data=data)


def zipped(data: bytes, name: str = "a.fits") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return buffer.getvalue()


PACKS = [bytes, gzip.compress, bz2.compress, lzma.compress, zipped]
