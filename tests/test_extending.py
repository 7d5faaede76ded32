"""docs/extending.md: every diff on the page applies to the package as it is, and what it adds works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aqdask

PAGE = Path(__file__).resolve().parent.parent / "docs/extending.md"
PACKAGE = Path(aqdask.__file__).resolve().parent
SECTION = re.compile(r"^## (?P<title>.+?)$.*?^```diff\n(?P<diff>.*?)^```$", re.MULTILINE | re.DOTALL)


def diffs() -> dict[str, str]:
    """The diff of each section of the page, by its title."""
    return {found["title"]: found["diff"] for found in SECTION.finditer(PAGE.read_text(encoding="utf-8"))}


def run_with(folder: Path, titles: list[str], code: str) -> str:
    """Apply diffs to a copy of the package, run ``code`` with that copy, and return what it printed."""
    shutil.copytree(PACKAGE, folder / "aqdask")  # and its compiled kernels: what differs is compiled again
    environment = os.environ | {"PYTHONPATH": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    for title in titles:
        subprocess.run(
            ["git", "apply", "-"], input=diffs()[title], text=True, cwd=folder, env=environment, check=True
        )
    command = [sys.executable, "-c", code]  # ends by the time-out of pytest, however busy the machine is
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SIMULATED = """
import numpy as np
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

def image(seed, side=384):
    sky = 700 + 600 * (seed * 0.618 % 1)
    return simulate_frame(SceneSpec(height=side, width=side, star_density=1 / 500, sky=sky), seed=seed).image
"""

NIGHT = """
import numpy as np
from astropy.io import fits
from pathlib import Path
import aqdask as aq

Path("night").mkdir()
noise = np.random.default_rng(0)
for number in range(4):
    pixels = noise.normal(1000, 10, (256, 256))
    pixels[200, 200] += 2000 * (number == 3)
    fits.writeto(f"night/frame_{number}.fits", pixels.astype("u2"))
"""

RUNS: dict[str, tuple[list[str], str, str]] = {  # title: diffs, code, its last words
    "A reason code": (
        ["A reason code"],
        """
from aqdask import flags
from aqdask.methods.noise_aware.variables import VARIABLES
reason = next(variable for variable in VARIABLES if variable.name == "reason")
print(reason.attributes["flag_values"][-1], reason.attributes["flag_meanings"].split()[-1])
""",
        "12 crowding",
    ),
    "A feature group": (
        ["A reason code", "A feature group"],
        SIMULATED
        + """
from aqdask.methods import dispatch
from aqdask.methods.base import FrameSource, batches
from aqdask.methods.bundle import Bundle
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata, PatchGrid

class Frames(FrameSource):
    ids = [f"{number}.fits" for number in range(8)]
    metadata = [FrameMetadata(camera="cam", filter="L", gain=1.0)] * 8
    def read(self, index):
        return image(index), None

bundle = dispatch.calibrate(load_shipped(), Frames(), TrainSpec(alpha=0.02))
scorer = dispatch.load_scorer(Bundle.from_bytes(bundle.contents))
grid = PatchGrid(384, 384, 64)
found = [scorer.extract_features(*batch, "cam", "L") for batch in batches(image(50), None, grid)]
features = np.concatenate(found).reshape(6, 6, -1)
features[2, 3, scorer.feature_names.index("stars")] = 5000
print(scorer.score_features(features, "cam", "L")["reason"][2, 3])
""",
        "12",
    ),
    "A method": (
        ["A method"],
        NIGHT
        + """
aq.ingest("night", "night.zarr")
good = ["frame_0.fits", "frame_1.fits", "frame_2.fits"]
model = aq.train("night.zarr", method="contrast", frames=good, out="contrast.safetensors")
aq.score("night.zarr", "contrast.safetensors")
quality = aq.open_quality("night.zarr")
worst = quality["score"].argmax(...)
print(*(int(worst[name]) for name in ("frame", "patch_y", "patch_x")))
""",
        "3 3 3",
    ),
    "A codec": (
        ["A codec"],
        NIGHT
        + """
aq.ingest("night", "night.zarr", codec="zlib")
print("zlib" in Path("night.zarr/frames/image/zarr.json").read_text(), aq.verify("night.zarr").sound)
""",
        "True True",
    ),
    "An export format": (
        ["An export format"],
        NIGHT
        + """
aq.ingest("night", "night.zarr")
aq.score("night.zarr", "wide-field")
aq.export("night.zarr", "masks", formats=["npy"])
mask = np.load("masks/npy/frame_3.npy")
print(mask.dtype, mask.shape)
""",
        "bool (256, 256)",
    ),
    "A command": (
        ["A command"],
        NIGHT
        + """
import subprocess, sys
aq.ingest("night", "night.zarr")
print(subprocess.run([sys.executable, "-m", "aqdask", "count", "night.zarr"], stdout=-1, text=True).stdout)
""",
        "done 4",
    ),
    "A kind of cluster": (
        ["A kind of cluster"],
        NIGHT
        + """
print(aq.ingest("night", "night.zarr", cluster="threads:2")[0].done)
""",
        "4",
    ),
}


@pytest.mark.parametrize("title", RUNS)
def test_what_a_diff_adds_works(title, tmp_path, require):
    require(shutil.which("git"), "no git, which applies the diffs")
    titles, code, printed = RUNS[title]
    assert run_with(tmp_path, titles, code).split()[-len(printed.split()) :] == printed.split()


def test_every_diff_of_the_page_is_run():
    assert list(diffs()) == list(RUNS)
