"""Light curves of a small archive through the command and the function; what is refused and resumed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import dask.dataframe
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, WCS, InterruptAfter, tiny_bundle, write_frame

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.measurements import frame_tables, light_curves
from aqdask.measurements.star_photometry import StarPhotometry
from aqdask.photometry import star_matching

SHAPE, COUNT, SIGMA = (160, 240), 7, 1.4
ZERO_POINTS = np.array([0.0, -0.1, 0.2, -0.3, 0.1, 0.0, 0.0])
SHIFTS = np.array([[0, 0], [3.3, -2.6], [-4.2, 1.5], [2, 6], [-1.5, -3], [5, 5], [0, 0]])  # x, y
NO_WCS = (3, 4)
ALPHA = 0.45


def stars() -> np.ndarray:
    """x, y and counts of 40 stars on a grid, a little disturbed."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(24, 220, 26.0), np.arange(24, 150, 26.0)), axis=-1).reshape(-1, 2)
    return np.column_stack([grid + rng.uniform(-6, 6, grid.shape), 10 ** rng.uniform(3.8, 4.8, len(grid))])


def image(number: int) -> np.ndarray:
    """Frame of the field: star 5 has another brightness in each, the last frame shows another field."""
    rng = np.random.default_rng(100 + number)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = rng.normal(1000, 8, SHAPE)
    for at, (star_x, star_y, flux) in enumerate(stars()):
        if number == COUNT - 1:
            star_x, star_y = rng.uniform(10, 150, 2)
        away = (x - star_x - SHIFTS[number, 0]) ** 2 + (y - star_y - SHIFTS[number, 1]) ** 2
        counts = flux * 10 ** (0.4 * ZERO_POINTS[number]) * (1 + 0.3 * (number % 2) * (at == 5))
        light += counts / (2 * np.pi * SIGMA**2) * np.exp(-away / 2 / SIGMA**2)
    return light.astype("int16")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Scored frames of one field with shifts and zero points, and one of another field."""
    folder = tmp_path_factory.mktemp("field")
    for number in range(COUNT):
        cards = {} if number in NO_WCS else dict(WCS)
        if cards:
            cards["CRPIX1"] += SHIFTS[number, 0]
            cards["CRPIX2"] += SHIFTS[number, 1] + (8 if number == 5 else 0)  # a WCS that is off by 8 px
        write_frame(folder / f"f{number}.fits", image(number), FILTER="L", INSTRUME="tinycam", EXPTIME=60.0,
                    GAIN=2.0, **{"DATE-OBS": f"2024-05-07T01:{number:02d}:00"}, **cards)  # fmt: skip
    place = tmp_path_factory.mktemp("archive") / "field.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    aq.score(place, tiny_bundle(), cluster="serial")
    return place


@pytest.fixture(scope="module")
def curves(archive, tmp_path_factory) -> aq.LightCurves:
    return aq.light_curves(archive, tmp_path_factory.mktemp("curves"), reference="f0.fits", alpha=ALPHA)


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_tables, "FRAMES_PER_PART", 4)
        patch.setattr(star_matching, "CONTROL_POINTS", 20)  # fast where nothing matches
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask 2026.8 under pandas 3.1
def test_zero_points_positions_and_scatter(curves):
    frames = curves.frames.to_pandas()
    np.testing.assert_allclose(frames["zero_point"] - frames["zero_point"][0], ZERO_POINTS[:-1], atol=0.01)
    np.testing.assert_allclose(frames["extinction"], -frames["zero_point"])
    assert frames["placed_by"].tolist() == ["wcs", "wcs", "wcs", "stars", "stars", "stars"]
    light = dask.dataframe.read_parquet(curves.folder / "light_curves").compute()
    brightest = light[light["star"] == "star 1"]
    np.testing.assert_allclose(
        brightest[["x", "y"]].values - brightest[["x", "y"]].values[0], SHIFTS[:-1], atol=0.15
    )
    known = curves.stars.to_pandas()
    variable = np.argmin(np.hypot(*(known[["x", "y"]].values - stars()[5, :2]).T))
    assert known["scatter_no_mask"][variable] == pytest.approx(0.14, abs=0.03)
    assert known["scatter_no_mask"].drop(variable).median() < 0.02
    assert (known["n_masked"] <= known["n_no_mask"]).all()
    table = curves.gains[0]
    assert (table.frames, table.filter, table.stars) == (6, "L", (len(known) + 1) // 2)
    fluxes = dask.dataframe.read_parquet(curves.folder / "fluxes").compute()
    np.testing.assert_array_equal(fluxes["flux"], light["flux"])
    with Image.open(curves.folder / "scatter.png") as picture:
        assert picture.convert("L").getextrema()[0] < 100 < picture.width


def test_columns_are_those_of_mask_and_maps(archive, curves):
    quality = aq.open_quality(archive)
    masks = aq.mask(quality, ALPHA).values
    rows = {str(name): row for row, name in enumerate(quality["frame_id"].values)}
    light = pq.read_table(curves.folder / "light_curves").to_pandas()
    assert 0.02 < (light["masked"] > 0).mean() < 0.9
    for one in light.sample(40, random_state=1).itertuples():
        row, x, y = rows[one.frame_id], round(one.x), round(one.y)
        assert (
            one.pvalue == quality["pvalue"].values[row, min(y // 32, 3), min(x // 32, 6)]
            or y >= 128
            or x >= 224
        )
        assert masks[row, y, x] == (one.masked > 0.5) or 0 < one.masked < 1
    clean = light["flags"] == 0
    assert light["mag"].notna().equals(clean)
    expected = -2.5 * np.log10(light["flux"][clean]) + light["zero_point"][clean]
    np.testing.assert_allclose(light["mag"][clean], expected)
    fields = pq.read_schema(next((curves.folder / "light_curves").iterdir()))
    assert all(field.metadata[b"description"] for field in fields)


def test_frames_that_cannot_be_measured_are_named(curves):
    problems = dict(curves.problems)
    assert set(problems) == {"f6.fits"}
    assert "the stars of f0.fits were not found: by wcs" in problems["f6.fits"]
    assert "no common pattern of stars" in problems["f6.fits"] or "by stars" in problems["f6.fits"]


def test_interrupted_and_run_again_it_ends_with_the_same_bytes(archive, curves, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        aq.light_curves(archive, tmp_path, reference="f0.fits", alpha=ALPHA, reporter=InterruptAfter(1))
    assert [path.name for path in (tmp_path / "fluxes").iterdir()] == ["part-00000000.parquet"]
    (tmp_path / "stars.parquet.0f.partial").write_bytes(b"killed")
    (tmp_path / "light_curves" / "part-00000008.parquet").write_bytes(b"of an earlier archive")
    calls, measure = [], StarPhotometry.__call__
    monkeypatch.setattr(
        StarPhotometry, "__call__", lambda self, frame: calls.append(frame.row) or measure(self, frame)
    )
    aq.light_curves(archive, tmp_path, reference="f0.fits", alpha=ALPHA)
    assert calls == [4, 5, 6]
    assert contents(tmp_path) == contents(curves.folder)


def run(*words: str):
    return CliRunner().invoke(aqdask, ["photometry", *map(str, words), "--cluster", "serial", "--quiet"])


def test_targets_by_sky_position_have_names_and_no_part_in_zero_points(archive, curves, tmp_path):
    known = curves.stars.to_pandas().iloc[3]
    (tmp_path / "targets.csv").write_text(
        f"Name, RA, Dec\nV1, {known.ra}, {known.dec + 0.5 * WCS['CDELT2']}\nstar 2, {known.ra}, {known.dec}\n"
    )
    done = run(archive, "--out", tmp_path / "out", "--targets", tmp_path / "targets.csv", "--stars", "20",
               "--reference", "f0.fits", "--frames", "f[0-2].fits", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["event"] == "photometry"
    gain = said["gains"][0]
    assert gain["frames"] == 3
    assert gain["ratio"] == pytest.approx(gain["no_mask"] / gain["weighted"])
    found = pq.read_table(tmp_path / "out" / "stars.parquet").to_pandas()
    assert found["star"].tolist() == ["V1", "star 2", "star 1", *(f"star {n}" for n in range(3, 22))]
    assert found["comparison"].tolist() == [False] * 2 + [True] * 20
    np.testing.assert_allclose(found[["x", "y"]].values[0], [known.x, known.y], atol=0.2)  # centred
    assert found["n_no_mask"][0] == 3


def test_the_command_prints_the_gain_and_exits_with_1_for_frames_left_out(archive, tmp_path):
    done = run(archive, "--out", tmp_path, "--reference", "f0.fits", "--frames", "f[0126].fits")
    assert done.exit_code == 1
    assert "f6.fits" in done.output
    assert "mag without the mask" in done.output
    assert re.search(r"without the mask over mask and weights: \d+\.\d\d;", done.output)


REFUSED = {
    "one frame": (["--frames", "f1.fits"], None, "1 scored frame"),
    "no such frame": (["--reference", "none"], None, "no frame 'none'"),
    "no common stars": (["--frames", "f[06].fits", "--reference", "f6.fits"], None, "no common stars"),
    "no WCS": (["--reference", "f3.fits"], "ra,dec\n150,2\n", "f3.fits no WCS"),
    "outside": ([], "x,y\n10,20\n5000,1\n", "outside of the reference frame f0.fits: 1 target, target 2"),
    "pixels of which frame": ([], "x,y\n10,20\n", "targets in pixels without a reference frame"),
    "columns": ([], "a,b\n1,2\n", "has the columns a, b and 1 row."),
    "no number": ([], "x,y\n1,two\n", "y = 'two' in line 2"),
    "a name twice": ([], "name,x,y\na,30,30\na,60,60\n", "has the name a twice"),
    "too many stars": (["--stars", "20000"], None, "1 to 10000 of both together"),
    "stars": (["--stars", "many"], None, "--stars many"),
    "no stars": (["--stars", "0"], None, "0 stars and 0 targets"),
    "radius": (["--radius", "nan"], None, "radius of nan"),
    "radius beyond the frame": (["--radius", "1e6"], None, "at most 80"),
    "filter": (["--filter", "B"], None, "no frame with the filter 'B'"),
    "no targets": (["--targets", "/none.csv"], None, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(archive, tmp_path, case):
    options, csv, message = REFUSED[case]
    if csv:
        (tmp_path / "t.csv").write_text(csv)
        options = [*options, "--targets", tmp_path / "t.csv"]
    if case not in ("no such frame", "pixels of which frame") and "--reference" not in options:
        options = [*options, "--reference", "f0.fits"]
    done = run(archive, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "out" / "stars.parquet").exists()


def test_a_folder_of_something_else_is_left_alone(archive, tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ArchiveError, match=r"letters\.txt is no light curve"):
        aq.light_curves(archive, tmp_path)


def test_without_astroalign_frames_without_a_wcs_say_what_to_install(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "astroalign", None)
    found = aq.light_curves(archive, tmp_path, reference="f0.fits", frames=["f[0-4].fits"])
    assert [name for name, _ in found.problems] == ["f3.fits", "f4.fits"]
    assert "pip install 'aqdask[align]'" in found.problems[0][1]


def test_damaged_reference_is_followed_by_the_next_and_refused_when_named(archive, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(archive, tmp_path / "field.zarr"))
    monkeypatch.setattr(light_curves, "reference_order", lambda *_: [0, 2, 1])
    for shard in (copy / "frames" / "image" / "c" / "0").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"damaged")
    found = aq.light_curves(copy, tmp_path / "out", stars=10, frames=["f[0-2].fits"])
    assert found.reference == "f2.fits"
    assert "f0.fits" in dict(found.problems)
    with pytest.raises(UsageError, match="reference frame cannot be read"):
        aq.light_curves(copy, tmp_path / "other", reference="f0.fits")


def targets(tmp_path, positions) -> Path:
    lines = [f"V{number},{x},{y}" for number, (x, y) in enumerate(positions)]
    (tmp_path / "t.csv").write_text("\n".join(["name,x,y", *lines]))
    return tmp_path / "t.csv"


def test_targets_without_a_star_are_named(archive, curves, tmp_path):
    known = curves.stars.to_pandas()[["x", "y"]].values
    empty = next(
        place for place in np.ndindex(SHAPE[::-1]) if 20 < place[0] < 60 and place[1] > 20
        and np.hypot(*(known - place).T).min() > 12
        and np.hypot(*(stars()[:, :2] - place).T).min() > 12
    )  # fmt: skip
    done = run(archive, "--out", tmp_path / "o", "--reference", "f0.fits", "--frames", "f[0-2].fits",
               "--targets", targets(tmp_path, [*known[:3], empty]))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "within 3 px of 1 target on the reference frame f0.fits (V3)" in done.stderr
    assert "from stars of the reference" not in done.stderr


@pytest.mark.parametrize(("shift", "told"), [((1, 1), "(x -1.0, y -1.0)"), ((-14, 9), "(x +14.0, y -9.0)")])
def test_a_common_shift_of_the_targets_is_told(archive, curves, tmp_path, shift, told):
    known = curves.stars.to_pandas()[["x", "y"]].values[:8]
    done = run(archive, "--out", tmp_path / "o", "--reference", "f0.fits", "--frames", "f[0-2].fits",
               "--targets", targets(tmp_path, known + shift))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"8 of 8 targets lie {np.hypot(*shift):.1f} px {told} from stars of the reference" in done.stderr
