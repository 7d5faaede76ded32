"""Notes of files, and random damage: a frame or a reason, never another exception."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import resource
from pathlib import Path

import pytest
from astropy.io import fits
from fits_files import (
    ALL,
    FIRST,
    IMAGE,
    content,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.errors import FrameError
from aqdask.io.reader import MORE_IMAGES, probe, read_frame
from aqdask.specs import FrameInfo, ReadSpec


class TestNotes:
    @pytest.mark.parametrize(
        ("hdus", "read", "expected"),
        [
            ([IMAGE, IMAGE], FIRST, True),
            ([IMAGE, IMAGE[:9], IMAGE], FIRST, True),
            ([IMAGE, IMAGE], ALL, False),
            ([IMAGE, IMAGE], ReadSpec(hdu="1"), False),
            ([IMAGE, IMAGE[:9]], FIRST, False),
            ([IMAGE, ("DQ", IMAGE % 2)], ReadSpec(mask_hdu="DQ"), False),
            ([IMAGE, ("FLAGS", IMAGE % 2)], ReadSpec(mask_hdu="FLAGS"), False),
            ([IMAGE, ("ERR", IMAGE), ("WHT", IMAGE)], FIRST, False),
            ([IMAGE, ("D2IMARR", IMAGE)], FIRST, False),
            ([IMAGE], FIRST, False),
        ],
    )
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_several_images(self, tmp_path: Path, hdus: list, read: ReadSpec, expected: bool, pack) -> None:
        images = [fits.ImageHDU(h[1], name=h[0]) if isinstance(h, tuple) else fits.ImageHDU(h) for h in hdus]
        (tmp_path / "a.fits").write_bytes(pack(content(fits.PrimaryHDU(), *images)))
        infos = probe(tmp_path / "a.fits", read)
        frame = read_frame(tmp_path / "a.fits", infos[0].hdu, read)
        assert (MORE_IMAGES in frame.info.notes) == expected
        assert (MORE_IMAGES in infos[0].notes) == (expected and pack is bytes)

    def test_damage_behind_the_frame_is_not_its_own(self, tmp_path: Path) -> None:
        whole = content(fits.PrimaryHDU(IMAGE), fits.ImageHDU(IMAGE))
        at = whole.rindex(b"BITPIX  =")
        (tmp_path / "a.fits").write_bytes(whole[:at] + b"BITPIX  = 17,5".ljust(80) + whole[at + 80 :])
        assert probe(tmp_path / "a.fits", FIRST)[0].notes == ()

    def test_notes_of_the_card_come_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from aqdask.specs import FrameMetadata

        monkeypatch.setattr(
            "aqdask.io.reader.read_metadata", lambda *_: FrameMetadata(notes=("of the card",))
        )
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(IMAGE), fits.ImageHDU(IMAGE))
        assert (
            probe(path, FIRST)[0].notes
            == ("of the card", MORE_IMAGES)
            == read_frame(path, 1, FIRST).info.notes
        )


BASE = content(
    fits.PrimaryHDU(IMAGE, fits.Header([("BLANK", 3), ("EXPTIME", 5.0)])),
    fits.CompImageHDU(IMAGE.astype("i4"), name="C"),
    fits.ImageHDU(IMAGE.astype("u1"), name="DQ"),
)


HEADER_CARDS = [at for at in range(0, len(BASE), 80) if re.match(rb"[A-Z0-9_-]+ *=", BASE[at : at + 10])]


@settings(max_examples=250, deadline=2000)
@given(
    places=st.lists(
        st.tuples(st.sampled_from(HEADER_CARDS), st.integers(0, 79), st.integers(0, 255)), max_size=6
    ),
    digits=st.lists(
        st.tuples(st.sampled_from(HEADER_CARDS), st.text("0123456789-+.,' ED", min_size=1, max_size=20)),
        max_size=2,
    ),
    stop=st.one_of(st.none(), st.integers(0, len(BASE))),
    pack=st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]),
    end=st.floats(0, 1),
)
def test_damage_gives_a_frame_or_a_reason(tmp_path_factory, places, digits, stop, pack, end) -> None:
    """Mutated headers and truncation raise nothing but `FrameError`, within a deadline."""
    damaged = bytearray(BASE)
    for card, at, value in places:
        damaged[card + at] = value
    for card, text in digits:
        damaged[card + 10 : card + 10 + len(text)] = text.encode()
    packed = pack(bytes(damaged[:stop]))
    path = tmp_path_factory.getbasetemp() / "damaged.fits"
    path.write_bytes(packed[: int(len(packed) * end) + 1])
    for read in (FIRST, ALL, ReadSpec(mask_hdu="DQ:0")):
        try:
            infos: tuple[FrameInfo, ...] = probe(path, read)
        except FrameError:
            continue
        for info in infos:
            try:
                read_frame(path, info.hdu, read)
            except FrameError as error:
                if not str(error).isprintable():
                    pytest.fail(f"a reason that cannot be shown: {error!r}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak < 4 << 20, "kilobytes"
