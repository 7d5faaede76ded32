"""The report in a browser: gallery, panels, keys, labels, themes, and names with markup in them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import screen_reader

pytestmark = pytest.mark.browser


def names(page) -> list[str]:
    """Frames of the gallery, in its order."""
    return page.locator("#frames .name").all_inner_texts()


def opened(page, index: int) -> None:
    """Wait until the panel shows a frame completely."""
    page.wait_for_selector(f"#panel[open][data-shown='{index}']", timeout=30_000)


def values(page, column: str) -> list:
    return page.evaluate(f"frames.{column}")


def test_gallery_sorts(report, open_page):
    page = open_page(report)
    ids, scores = values(page, "frame_id"), values(page, "frame_score")
    assert names(page) == ids == sorted(ids)  # in the order of time
    page.select_option("#f-sort", "score")
    masked = values(page, "masked_patches")
    expected = sorted(range(len(ids)), key=lambda i: (-scores[i], -masked[i], i))
    assert names(page) == [ids[i] for i in expected]
    assert page.locator("#frames .chip").first.inner_text().startswith("flagged")
    page.evaluate("frames.frame_score.fill(25); data.ceiling = 25; frames.masked_patches[3] = 2")
    page.select_option("#f-sort", "best")
    page.select_option("#f-sort", "score")
    assert names(page)[0] == ids[3]
    assert (
        page.locator("#frames .detail").first.inner_text().startswith("score 25 (the highest) · 200% masked")
    )


def test_gallery_filters(report, open_page):
    page = open_page(report)
    flagged = [
        name
        for name, is_flagged in zip(values(page, "frame_id"), values(page, "is_flagged"), strict=True)
        if is_flagged
    ]
    assert 0 < len(flagged) < 16
    page.select_option("#f-state", "flagged")
    assert names(page) == flagged
    assert page.inner_text("#found") == f"{len(flagged)} of 16 frames"
    page.click("#filters button[type=reset]")
    page.wait_for_function("document.querySelectorAll('#frames .card').length === 16")
    page.select_option("#f-reason", "size")
    assert 0 < len(names(page)) < 16
    page.click("#filters button[type=reset]")
    page.fill("#f-text", "FRAME_003")
    assert names(page) == ["frame_003.fits"]
    page.fill("#f-text", "")
    page.fill("#f-from", values(page, "time")[10][:16])
    assert names(page) == values(page, "frame_id")[10:]
    page.fill("#f-text", "no such frame")
    assert page.inner_text("#found") == "0 of 16 frames"


def test_panel_shows_pixels_reconstruction_and_maps(report, open_page):
    page = open_page(report)
    worst = page.evaluate("frames.frame_score.indexOf(Math.max(...frames.frame_score))")
    page.locator("#extremes .card").first.click()
    opened(page, worst)
    assert page.inner_text("#p-flag").startswith("Flagged")
    assert page.locator("#slot-image, #slot-smooth, #slot-residual, #slot-score, #slot-sky").evaluate_all(
        "slots => slots.every((slot) => !slot.hidden && slot.querySelector('.plot, div').clientHeight > 100)"
    )
    shape = page.evaluate("viewer.get_model_by_name('plane-image').data.image[0].shape")
    assert shape == [256, 256]
    masked = page.evaluate("viewer.get_model_by_name('patches').data.x0.length")
    assert masked == page.evaluate("view.codes.filter((code) => code !== 255).length") > 0


def test_pointer_reads_pixels_and_sky(report, open_page):
    page = open_page(report)
    page.evaluate("open(0)")
    opened(page, 0)
    page.evaluate("point(127.5, 127.5)")  # the centre of the frame, near the field's
    text = page.inner_text("#p-readout")
    assert "x 127" in text
    assert "y 127" in text
    assert "RA 14:00:0" in text  # 210 degrees
    assert "Dec +3" in text
    counts = page.evaluate("valueAt(view.planes.image, 127.5, 127.5)")
    assert page.evaluate("view.planes.image.low") <= counts <= page.evaluate("view.planes.image.high")
    page.evaluate("view.planes.image.levels.fill(255)")
    page.evaluate("point(127.5, 127.5)")
    high = page.evaluate("number(view.planes.image.high, 3)")
    assert f"Image ≥ {high} counts (clipped)" in page.inner_text("#p-readout")


def test_zoom_is_linked(report, open_page):
    page = open_page(report)
    page.evaluate("open(0)")
    opened(page, 0)
    others = [page.locator(f"#figure-panel-{name}") for name in ("residual", "sky")]
    whole = [other.screenshot() for other in others]
    page.locator("#figure-panel-image").hover()  # its centre
    page.mouse.wheel(0, -600)
    page.wait_for_function("viewer.roots()[0].x_range.end < 250")
    ranges = page.evaluate(
        "viewer.roots().map((p) => String([p.x_range.start, p.x_range.end, p.y_range.start, p.y_range.end]))"
    )
    assert len(ranges) > 5
    assert len({*ranges}) == 1
    page.wait_for_timeout(200)  # until they are drawn
    assert all(other.screenshot() != before for other, before in zip(others, whole, strict=True))
    page.click("#p-reset")
    assert page.evaluate("viewer.roots().every((plot) => plot.x_range.end === 256)")


def test_keys_step_through_frames(report, open_page):
    page = open_page(report)
    flagged = values(page, "is_flagged")
    page.evaluate("open(0)")
    opened(page, 0)
    page.keyboard.press("n")
    opened(page, 1)
    page.keyboard.press("ArrowLeft")
    opened(page, 0)
    page.keyboard.press("f")
    opened(page, flagged.index(1) if 1 in flagged else flagged.index(True))
    last = len(flagged) - 1 - flagged[::-1].index(True)
    page.evaluate(f"open({last})")
    opened(page, last)
    page.click("#p-flagged")
    assert page.inner_text("#p-said") == "No further flagged frame in the list of all frames."
    page.keyboard.press("Escape")
    page.wait_for_function("!document.getElementById('panel').open")
    page.keyboard.press("f")
    assert page.locator("#said").is_visible()
    assert page.inner_text("#said") == "No further flagged frame in the list of all frames."


def test_frame_without_pixels_says_so(report, open_page):
    page = open_page(report)
    index = page.evaluate("frames.frame_id.findIndex((name, i) => !panels[i])")
    page.evaluate(f"open({index})")
    opened(page, index)
    assert "not in this report" in page.inner_text("#p-note")
    assert page.locator("#slot-image").is_hidden()
    assert page.locator("#slot-mask").is_visible()


def test_point_of_a_plot_opens_its_frame(report, open_page):
    page = open_page(report)
    page.evaluate(
        "Bokeh.documents[0].roots()[0].renderers.find((r) => r.glyph.type === 'Scatter')"
        ".data_source.selected.indices = [4]"
    )
    opened(page, 4)


def test_labels_are_saved_as_a_file(report, open_page, tmp_path):
    page = open_page(report)
    page.evaluate("open(2)")
    opened(page, 2)
    page.click("#p-good")
    assert page.get_attribute("#p-good", "aria-pressed") == "true"
    page.keyboard.press("n")
    opened(page, 3)
    page.click("#p-bad")
    page.click("#p-box")
    plane = page.locator("#figure-panel-image .bk-Figure").bounding_box()
    page.mouse.move(plane["x"] + 0.25 * plane["width"], plane["y"] + 0.25 * plane["height"])
    page.mouse.down()
    page.mouse.move(plane["x"] + 0.5 * plane["width"], plane["y"] + 0.5 * plane["height"], steps=5)
    page.mouse.up()
    page.wait_for_function("viewer.get_model_by_name('boxes').data.x0.length === 1")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert page.inner_text("#labelled") == "3"  # the browser keeps them until they are saved
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "labels.json")
    saved = json.loads((tmp_path / "labels.json").read_text())
    assert saved["aqdask_labels"] == 1
    assert saved["archive"] == "night.zarr"
    *whole, boxed = saved["labels"]
    ids, pixels = values(page, "frame_id"), values(page, "crc32c")
    assert len(pixels[2]) == 8
    assert whole == [
        {"frame_id": ids[2], "verdict": "good", "box": None, "note": "", "pixels": pixels[2]},
        {"frame_id": ids[3], "verdict": "bad", "box": None, "note": "", "pixels": pixels[3]},
    ]
    assert boxed["verdict"] == "bad"
    assert boxed["box"] == pytest.approx([64, 128, 128, 192], abs=3)
    page.select_option("#f-state", "labelled")
    assert names(page) == ["frame_002.fits", "frame_003.fits"]
    page.reload()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert page.inner_text("#labelled") == "0"


def test_labels_of_the_archive_are_cleared_by_the_file(labelled, open_page):
    page = open_page(labelled)
    index = page.evaluate("data.stored[0] && positions.get(data.stored[0].frame_id)")
    page.evaluate(f"open({index})")
    opened(page, index)
    assert page.get_attribute("#p-bad", "aria-pressed") == "true"
    page.click("#p-clear")
    assert page.get_attribute("#p-bad", "aria-pressed") == "false"
    assert "changed here: save the labels" in page.inner_text("#p-labels")
    [removed] = page.evaluate("aqdask.labelFile().labels")
    assert (removed["verdict"], removed["box"]) == ("removed", None)
    page.click("#p-bad")  # as the archive has it
    assert page.evaluate("aqdask.labelFile().labels") == []


def test_dark_and_light(report, open_page):
    page = open_page(report, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(18, 22, 29)"
    label = "Bokeh.documents[0].roots()[0].left[0].axis_label_text_color"
    assert page.evaluate(label) == "#e6eaf0"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert page.evaluate(label) == "#1c2330"


def test_nothing_is_wider_than_the_window(report, open_page):
    page = open_page(report)
    for width in (1800, 800, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)  # the plots follow
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("open(0)")
    opened(page, 0)
    assert page.evaluate(
        "document.getElementById('panel').scrollWidth <= document.getElementById('panel').clientWidth"
    )


def test_page_is_readable_without_eyes(report, open_page):
    page = open_page(report)
    levels = page.locator("main h1, main h2, main h3").evaluate_all("all => all.map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    unnamed = "all => all.filter((e) => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).length"
    assert page.locator("button, input, select").evaluate_all(unnamed) == 0
    assert page.locator("#summary, nav[aria-label], main, header").count() == 4
    found = screen_reader.check(page)
    roles = {role for role, *_ in found}
    assert {"image", "button", "heading", "combobox", "searchbox", "table"} <= roles
    page.evaluate("open(0)")
    opened(page, 0)
    names = {name for role, name, _ in screen_reader.check(page) if role == "image"}
    assert {"Masked patches by reason", "Image of the frame", "Residual of the frame"} <= names


def test_markup_in_names_is_text(hostile, open_page):
    page = open_page(hostile)
    assert names(page)[0].startswith("<img src=x onerror=")
    page.evaluate("open(0)")
    opened(page, 0)
    assert page.inner_text("#p-name").startswith("<img src=x")
    page.keyboard.press("Escape")
    page.locator("#figure-time-frame_score").scroll_into_view_if_needed()
    box = page.locator("#figure-time-frame_score").bounding_box()
    for step in range(60):  # across the plot: some of it shows the names of frames
        page.mouse.move(box["x"] + box["width"] * (0.06 + 0.016 * step), box["y"] + box["height"] * 0.35)
    assert page.evaluate("window.owned") is None
    assert page.locator("img[src=x]").count() == 0
    assert "</script>" in page.locator("#f-filter option").nth(1).inner_text()
