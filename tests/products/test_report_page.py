"""The page of a report: self-contained, safe, and made of pixels of the shown frames only."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from night import OPTIONS, write_frame, write_night
from PIL import Image

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution.reporter import Silent
from aqdask.methods.base import reconstruct_frame
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.shipped import load_shipped
from aqdask.products.mask_summaries import GOOD
from aqdask.products.report.data import report_data
from aqdask.products.report.page import as_script, ceiling, check_size
from aqdask.products.report.panels import REASON_COLOURS, block_mean, reason_pictures, sky_nodes
from aqdask.specs import PatchGrid
from aqdask.stats.patches import cut, join
from aqdask.store.frame_store import FrameStore

HOSTILE = '</script><img src=x onerror="alert(1)">'


def payload(path) -> dict:
    """What the script of a page works on."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


@pytest.fixture(scope="module")
def page(archive, tmp_path_factory):
    """Report on six frames with panels of four."""
    return aq.report(archive, tmp_path_factory.mktemp("report") / "report.html", alpha=0.2, panels=4)


def test_page_needs_no_network(page):
    text = page.path.read_text(encoding="utf-8")
    html = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:)[^"'\s>]+""", html)
    assert not re.search(r"@import|url\(", html)
    assert not re.search(r"<script[^>]+src", text)


def test_page_shows_every_frame_and_panels_of_some(page):
    data = payload(page.path)
    assert page.frames == len(data["frames"]["frame_id"]) == len(data["maps"]) == 6
    assert len(page.panels) == len(data["panels"]) == 4
    for panel in data["panels"].values():
        assert list(panel["planes"]) == ["image", "smooth", "residual", "score"]
        assert panel["problem"] == ""
        picture = Image.open(io.BytesIO(base64.b64decode(panel["planes"]["image"]["src"].partition(",")[2])))
        assert picture.size == (200, 130)
    assert {*map(int, data["thumbnails"])} == {*range(6)} - {*map(int, data["panels"])}
    for source in data["thumbnails"].values():
        assert max(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size) <= 192


def test_scores_at_the_ceiling_are_told(archive, tmp_path):
    page = aq.report(archive, tmp_path / "r.html", alpha=0.2, panels=0)
    assert payload(page.path)["ceiling"] is None
    data = report_data(archive, alpha=0.2)
    frames = dict(data.frames)
    frames["frame_score"], frames["masked_patches"] = np.array([25.0, 3, 25, 25, 2, 1]), np.ones(6)
    assert ceiling(replace(data, frames=frames)) == (25.0, 3)
    frames["masked_patches"] = np.array([1.0, 0, 0.5, 0.5, 0, 0])
    assert ceiling(replace(data, frames=frames)) is None  # one frame alone
    frames["frame_score"] = np.full(6, np.nan)
    assert ceiling(replace(data, frames=frames)) is None


def test_without_flagged_frames_the_highest_scores_are_shown(archive, tmp_path):
    page = aq.report(archive, tmp_path / "r.html", alpha=1e-6, panels=0)
    frames = payload(page.path)["frames"]
    assert not any(frames["is_flagged"])
    text = page.path.read_text(encoding="utf-8")
    shown = re.findall(r'<li data-index="(\d)">', text[text.index("Highest scores, none flagged") :])
    order = np.argsort(frames["frame_score"])
    assert set(map(int, shown[:3])) == {*order[3:]}
    assert set(map(int, shown[3:])) == {*order[:3]}


def test_a_large_archive_has_no_pictures_but_those_of_panels(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("aqdask.products.report.page.THUMBNAIL_PIXELS", 6 * 200 * 130 - 1)
    data = payload(aq.report(archive, tmp_path / "r.html", alpha=0.2, panels=4).path)
    assert len(data["panels"]) == 4
    assert data["thumbnails"] == {}


def test_named_frames_have_panels_beside_the_others(archive, tmp_path):
    page = aq.report(archive, tmp_path / "r.html", panels=0, frames=["R/*"])
    assert set(page.panels) == {f"R/f{n:02d}.fits" for n in (1, 3, 5)}
    with pytest.raises(UsageError, match="no frame 'X/"):
        aq.report(archive, tmp_path / "r.html", frames=["X/*"])


def test_maps_are_those_of_the_masks(page, archive):
    from aqdask.products.report.data import report_data

    reasons = report_data(archive, alpha=0.2).patch_reasons([0])[0]
    source = payload(page.path)["maps"][0]
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGBA"))[::-1]
    assert ((picture[..., 3] == 0) == (reasons == GOOD)).all()
    colours = [bytes.fromhex(colour[1:]) for colour in REASON_COLOURS.values()]
    assert [colours.index(bytes(rgb)) for rgb in picture[reasons != GOOD][:, :3]] == [
        *reasons[reasons != GOOD]
    ]


def test_frames_with_nothing_masked_or_scored_have_no_map():
    maps = np.full((2, 3, 3), GOOD, np.uint8)
    maps[1] = 0
    assert reason_pictures(maps, GOOD) == ["", ""]


def test_damaged_frame_does_not_end_the_report(archive, tmp_path):
    broken = tmp_path / "night.zarr"
    shutil.copytree(archive, broken)
    row = [*FrameStore.open(broken).coordinate("frame_id")].index("R/f01.fits")
    shutil.rmtree(broken / f"frames/image/c/{row}")
    page = aq.report(broken, tmp_path / "r.html", alpha=0.2)
    assert [frame for frame, _ in page.problems] == ["R/f01.fits"]
    assert "missing or damaged" in page.problems[0][1]
    panels = payload(page.path)["panels"]
    damaged = next(panel for panel in panels.values() if panel["problem"])
    assert "score" in damaged["planes"]  # the maps are there
    assert len(panels) == 6


@pytest.mark.parametrize("text", [HOSTILE, "<!--<script>", "\u2028 & </SCRIPT >"])
def test_text_cannot_end_a_script(text):
    found = as_script(json.dumps([text]))
    assert not re.search("[<>&]", str(found))
    assert json.loads(str(found)) == [text]


def test_markup_in_names_is_escaped(tmp_path):
    for number in range(2):
        image = np.random.default_rng(number).normal(1000, 30, (64, 64)).astype("int16")
        write_frame(tmp_path / "f" / f"<b onclick=x>{number}.fits", image, FILTER=HOSTILE, INSTRUME="<i>cam")
    (tmp_path / "f" / "<script>alert(1).fits").write_text("no FITS")
    aq.ingest(tmp_path / "f", tmp_path / "<u>.zarr", **OPTIONS)
    page = aq.report(tmp_path / "<u>.zarr", tmp_path / "r.html")
    text = page.path.read_text(encoding="utf-8")
    for markup in ("<b onclick", "<i>cam", "<script>alert", "<u>.zarr", "<img src=x"):
        assert markup not in text
    assert "&lt;script&gt;alert(1).fits" in text  # among those that were quarantined


def test_archive_without_scores_says_so(tmp_path):
    aq.ingest(write_night(tmp_path / "f", 2), tmp_path / "a.zarr", **OPTIONS)
    page = aq.report(tmp_path / "a.zarr")
    assert page.path == tmp_path / "a-products" / "report.html"
    text = page.path.read_text(encoding="utf-8")
    assert "Nothing is scored yet" in text
    assert all(list(panel["planes"]) == ["image"] for panel in payload(page.path)["panels"].values())


def test_what_was_left_out_or_given_up_is_told_and_no_damage(tmp_path):
    folder = write_night(tmp_path / "f", 2)
    (folder / "notes.txt").write_text("clouds at 3")
    aq.ingest(folder, tmp_path / "a.zarr", **OPTIONS)
    assert aq.report(tmp_path / "a.zarr").summary[-1] == "Last ingest: 1 file left out by suffix: .txt 1."
    (folder / "notes.txt").unlink()
    (folder / "R/f01.fits").unlink()
    aq.ingest(folder, tmp_path / "a.zarr", forget=True, **OPTIONS)
    page = aq.report(tmp_path / "a.zarr")
    assert not any("left out" in sentence for sentence in page.summary)
    assert any("given up (--forget)" in sentence for sentence in page.summary)
    assert (page.problems, page.panels) == ((), ("L/f00.fits",))
    assert payload(page.path)["frames"]["has_pixels"] == [True, False]
    [problem] = aq.report(tmp_path / "a.zarr", frames=["R/*"]).problems
    assert problem[1].startswith("no pixels: given up (--forget)")


def test_archive_of_quarantined_sources_only(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.fits").write_text("no FITS")
    with pytest.raises(UsageError):
        aq.ingest(tmp_path / "f", tmp_path / "a.zarr", **OPTIONS)
    write_night(tmp_path / "f", 1)
    aq.ingest(tmp_path / "f", tmp_path / "a.zarr", **OPTIONS)
    text = aq.report(tmp_path / "a.zarr", tmp_path / "r.html").path.read_text(encoding="utf-8")
    assert "a.fits" in text
    assert "quarantined" in text


def test_refusals(archive, tmp_path):
    with pytest.raises(UsageError, match="no archive"):
        aq.report(tmp_path / "none.zarr")
    with pytest.raises(UsageError, match="alpha"):
        aq.report(archive, tmp_path / "r.html", alpha=0)
    with pytest.raises(UsageError, match="-1 panels"):
        aq.report(archive, tmp_path / "r.html", panels=-1)
    with pytest.raises(UsageError, match=r"50,001 frames.*50,000"):
        check_size(50_001)
    assert not (tmp_path / "r.html").exists()


def test_run_writes_the_report(tmp_path, model):
    aq.run(write_night(tmp_path / "f", 2), tmp_path / "a.zarr", model, alpha=0.2, **OPTIONS)
    assert payload(tmp_path / "a-products" / "report.html")["frames"]["state"] == ["done", "done"]


def test_progress_is_reported_from_the_first_map_to_the_page(archive, tmp_path):
    class Counted(Silent):
        def __init__(self):
            self.stages = {}

        def start(self, stage, total, unit="frames"):
            self.stages[stage] = [total, 0]

        def advance(self, done, quarantined=0):
            self.stages[[*self.stages][-1]][1] += done

    counted = Counted()
    aq.report(archive, tmp_path / "r.html", alpha=0.2, panels=4, reporter=counted)
    assert counted.stages == {stage: [6, 6] for stage in ("masks", "report", "page")}


def test_notes_of_the_calibration_are_shown(archive, tmp_path, model):
    noted = model.with_calibrations(model.calibrations, name="noted", notes=("Few <b>frames</b>.",))
    own = shutil.copytree(archive, tmp_path / "night.zarr")
    aq.score(own, noted)
    text = aq.report(own, tmp_path / "r.html", model="noted", panels=0).path.read_text(encoding="utf-8")
    assert "<h3>Notes of the calibration</h3>" in text
    assert "<li>Few &lt;b&gt;frames&lt;/b&gt;.</li>" in text


def test_labels_and_agreement_are_shown(archive, tmp_path):
    labelled = tmp_path / "night.zarr"
    shutil.copytree(archive, labelled)
    aq.label(labelled, "L/f00.fits", "bad", box=(0, 0, 64, 64), note=HOSTILE)
    page = aq.report(labelled, tmp_path / "r.html", alpha=0.2, panels=1)
    text = page.path.read_text(encoding="utf-8")
    assert page.panels == ("L/f00.fits",)  # labelled ones come first
    assert "Agreement with people" in text
    assert [label["verdict"] for label in payload(page.path)["stored"]] == ["bad"]
    assert HOSTILE not in text


@pytest.mark.parametrize("shape", [(128, 192), (130, 200), (64, 100), (20, 30)])
def test_join_is_the_inverse_of_cut(shape):
    image = np.random.default_rng(0).normal(size=shape)
    grid = PatchGrid(*shape, 64)
    np.testing.assert_array_equal(join(cut(image, grid).reshape(-1, 64, 64), grid), image)


def test_block_means_leave_out_what_is_no_data():
    image = np.arange(20.0).reshape(4, 5)
    image[0, 0] = np.nan
    invalid = np.zeros((4, 5), bool)
    invalid[2:, 2:4] = True
    np.testing.assert_allclose(block_mean(image, invalid, 2), [[(1 + 5 + 6) / 3, 5], [13, np.nan]])
    counts = np.arange(16, dtype=np.uint16).reshape(4, 4)
    np.testing.assert_allclose(block_mean(counts, None, 2), [[2.5, 4.5], [10.5, 12.5]])


def test_reconstructions_follow_the_frame(model):
    """Of both methods: finite where there is data, NaN elsewhere, nearer to the frame than nothing is."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:200, :260]
    image = rng.poisson(1000 + 4000 * np.exp(-((y - 90.0) ** 2 + (x - 130.0) ** 2) / 60)).astype(np.uint16)
    invalid = np.zeros(image.shape, bool)
    invalid[10:20, 30:50] = True
    signal, smooth, _ = reconstruct_frame(load_scorer(load_shipped()), image, invalid)
    assert signal.shape == smooth.shape == image.shape
    assert (np.isnan(signal) == invalid).all()
    assert (np.isnan(smooth) == invalid).all()
    star = np.s_[86:95, 126:135]
    assert np.abs(signal - smooth)[star].mean() < 0.3 * np.abs(signal[star]).mean()
    assert np.nanstd(signal - smooth) < np.nanstd(signal)
    scaled, *_ = reconstruct_frame(load_scorer(model), image, invalid)
    assert np.nanmin(scaled) == 0
    assert np.nanmax(scaled) == 1


def test_method_without_reconstruction():
    assert reconstruct_frame(object(), np.zeros((4, 4))) is None


def test_sky_between_the_nodes_is_that_of_the_wcs():
    from night import WCS

    from aqdask.io.wcs import sky_coordinates

    cards = "".join(f"{k:8}= {v!r:>20}".replace("'RA---TAN'", "'RA---TAN'").ljust(80) for k, v in WCS.items())
    nodes = np.array(sky_nodes(cards, "", (130, 200)))
    ra, dec = np.radians(sky_coordinates(cards, "", np.array(129 / 32), np.array(199 / 32)))  # half a cell
    expected = [np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)]
    np.testing.assert_allclose(nodes[:2, :2].mean(axis=(0, 1)), expected, atol=1e-8)
    assert sky_nodes("", "", (130, 200)) is None
