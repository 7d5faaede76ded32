"""Write the fixture with the release on PYTHONPATH; README.md here has the command lines.

    python make.py FOLDER

It imports the release it is about, so that the modules named here are those of 0.2.0.dev0.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from aqdask.sky.defects import Defocus, Trail
from aqdask.sky.demo import demo_plan, write_demo_frame
from astropy.io import fits

import aqdask as aq

HERE = Path(__file__).resolve().parent
ALPHA = 0.05
BAD = {16: (Trail(600, angle=18, through=(0.5, 0.5)),), 17: (Defocus(4.5),)}
TAR = ["tar", "--sort=name", "--mtime=2026-11-25", "--owner=0", "--group=0", "--numeric-owner", "-cf", "-"]
SERIAL = {"cluster": "serial"}


def draw() -> None:
    """Write sixteen good frames, one with a trail and one out of focus."""
    for number, frame in enumerate(demo_plan(18, 256, seed=5)):
        spec = replace(frame.spec, gain=12.0)  # few counts compress well
        write_demo_frame("night", replace(frame, spec=spec, defects=BAD.get(number, ())))


def digest(array: np.ndarray) -> str:
    """sha256 of the type, the shape and the values of an array."""
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{native.dtype.str} {native.shape}".encode() + native.tobytes()).hexdigest()


def expected() -> dict[str, object]:
    """Maps, masks and products of the release."""
    quality = aq.open_quality("night.zarr")
    mask = aq.mask(quality, alpha=ALPHA)
    table = aq.export("night.zarr", "products", alpha=ALPHA, **SERIAL)
    columns = ("frame_id", "masked_fraction", "frame_score", "frame_flag", "state", "reason")
    return {
        "release": aq.__version__,
        "alpha": ALPHA,
        "model": aq.load_model("camera.safetensors").digest,
        "maps": {name: quality[name].values.tolist() for name in ("score", "pvalue", "reason", "mae", "sky")},
        "digests": {name: digest(quality[name].values) for name in quality.data_vars},
        "mask": digest(mask.values),
        "dq": {path.name: digest(fits.getdata(path, "DQ")) for path in sorted(Path("products/dq").iterdir())},
        "table": {name: table[name].to_pylist() for name in columns},
    }


def main() -> None:
    """Run the main job in a new folder, and pack the result beside this script."""
    folder = Path(sys.argv[1])
    folder.mkdir()
    os.chdir(folder)
    draw()
    aq.ingest("night", "night.zarr", chunk=128, **SERIAL)
    references = ["frame_00*", "frame_01[0-5]*"]
    bundle = aq.calibrate(
        "night.zarr", "wide-field", frames=references, out="camera.safetensors", alpha=ALPHA, **SERIAL
    )
    shutil.copytree("night.zarr", "unscored.zarr")  # packed, it takes no space: the pixels stand there twice
    aq.score("night.zarr", bundle, **SERIAL)
    (HERE / "expected.json").write_text(json.dumps(expected()) + "\n")
    listed = ("night.zarr", "unscored.zarr", "camera.safetensors")
    packed = subprocess.run([*TAR, *listed], stdout=subprocess.PIPE, check=True).stdout
    with open(HERE / "archive.tar.xz", "wb") as out:
        subprocess.run(["xz", "-9e"], input=packed, stdout=out, check=True)


if __name__ == "__main__":
    main()
