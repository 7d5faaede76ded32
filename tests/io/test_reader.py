"""Frames in and out: compared with astropy's own reading, over every kind of file we have."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io import reader as reader
from aqdask.io.reader import Frame, load_bytes, probe, read_frame
from aqdask.io.streams import decompress
from aqdask.io.writer import frame_to_fits
from aqdask.specs import ReadSpec

FIRST, ALL = ReadSpec(), ReadSpec(hdu="all")
RNG = np.random.default_rng(20240601)
IMAGE = RNG.integers(0, 2**16, (30, 41)).astype("uint16")
SUPPORTED = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]

TILE_COMPRESSIONS = [
    (scheme, dtype)
    for scheme in ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1")
    for dtype in ("uint8", "int16", "uint16", "int32", "float32")
    if (scheme, dtype) != ("PLIO_1", "uint16")  # PLIO cannot hold the negative numbers that BZERO makes
]


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(path, output_verify="ignore")
    return path


def raw_file(path: Path, cards: list[str], data: bytes = b"") -> Path:
    """A file with exactly these cards, for what astropy refuses to write."""
    header = "".join(card.ljust(80) for card in [*cards, "END"])
    path.write_bytes(header.ljust(-(-len(header) // 2880) * 2880).encode("latin-1") + data)
    return path


def stored(path: Path, cards: dict[str, object], values: np.ndarray) -> Path:
    """An image of these stored numbers with these scaling cards."""
    bitpix = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}[values.dtype.str[1:]]
    lines = ["SIMPLE  =                    T", f"BITPIX  = {bitpix:20d}", "NAXIS   =                    2"]
    lines += [f"NAXIS1  = {values.shape[1]:20d}", f"NAXIS2  = {values.shape[0]:20d}"]
    lines += [f"{key:8}= {value!s:>20}" for key, value in cards.items()]
    big_endian = values.astype(values.dtype.newbyteorder(">")).tobytes()
    return raw_file(path, lines, big_endian + bytes(-len(big_endian) % 2880))


def by_astropy(path: Path, hdu: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(load(path)), memmap=False) as file:
            return np.array(file[hdu].data)


def load(path: Path) -> bytes:
    return decompress(load_bytes(path))


def check_like_astropy(path: Path, hdu: int, frame: Frame) -> None:
    """Pixels equal where valid; BLANK integers are floats with NaN in astropy's reading."""
    expected = by_astropy(path, hdu).reshape(frame.image.shape)
    valid = np.ones(expected.shape, bool) if frame.invalid is None else ~frame.invalid
    if frame.invalid is None:
        assert expected.dtype.newbyteorder("=") == frame.image.dtype
    assert_array_equal(frame.image[valid], expected[valid])
    if expected.dtype.kind == "f":
        assert_array_equal(valid, np.isfinite(expected))


class TestRealFiles:
    """Every file that there is ends as frames equal to astropy's reading, or as a reason."""

    pytestmark = pytest.mark.real

    @pytest.mark.parametrize("folder", ["formats", "trails", "cloudynight", "bad_inputs"])
    def test_like_astropy_or_a_reason(self, data_dir: Path, folder: str) -> None:
        refused: dict[str, str] = {}
        for path in sorted((data_dir / folder).iterdir()):
            try:
                infos = probe(path, ALL)
            except FrameError as error:
                refused[path.name] = str(error)
                continue
            assert len({info.suffix for info in infos}) == len(infos)
            for info in infos:
                frame = read_frame(path, info.hdu, ALL)
                assert (frame.image.shape, frame.image.dtype.name) == (info.shape, info.dtype)
                assert frame.image.flags.c_contiguous
                assert frame.image.dtype.isnative
                check_like_astropy(path, info.hdu, frame)
        expected = {"bad_inputs": 41, "cloudynight": 1}  # y_train.dat is a table of labels
        assert len(refused) == expected.get(folder, 0), refused
        assert all(len(reason) > 10 for reason in refused.values())

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("sunpy_not_actually_fits.fits", r"not a FITS file \(starts with '<!DOCTYPE HTML"),
            ("lfs_pointer_1038843o.fits.fz", "Git LFS pointer, the file itself was not fetched"),
            ("astropy_table.fits", "tables only, no 2-D image"),
            ("astropy_arange.fits", r"3-D image \(cube\) of shape \(7, 10, 11\)"),
            ("midas_tst0007.mt", "1-D image of 38 pixels"),
            ("astropy_random_groups.fits", "random groups"),
            ("astropy_header_with_time.fits", "SIMPLE = F"),
            ("astropy_ie6d07ujq_wcs.fits", "distortion"),
            ("astropy_history_header.fits", "headers only"),
        ],
    )
    def test_reason(self, data_dir: Path, name: str, reason: str) -> None:
        with pytest.raises(FrameError, match=reason):
            probe(data_dir / "bad_inputs" / name, FIRST)

    @pytest.mark.parametrize("name", ["formats/badfitskeys.mt", "formats/panoptes_solved.fits.fz"])
    def test_back_to_fits(self, data_dir: Path, tmp_path: Path, name: str) -> None:
        path = data_dir / name
        (info,) = probe(path, FIRST)
        frame = read_frame(path, info.hdu, FIRST)
        out = tmp_path / "out.fits"
        frame_to_fits(frame.image, info.header, info.primary_header).writeto(out, checksum=True)
        (again,) = probe(out, FIRST)
        assert_array_equal(read_frame(out, again.hdu, FIRST).image, frame.image)
        assert again.metadata == info.metadata


class TestPixels:
    @pytest.mark.parametrize("dtype", SUPPORTED)
    def test_every_type_stays_itself(self, tmp_path: Path, dtype: str) -> None:
        limits = np.iinfo(dtype) if dtype[0] in "iu" else np.finfo(dtype)
        image = np.array([[limits.min, 0, 1], [2, 3, limits.max]], dtype)
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(image))
        (info,) = probe(path, FIRST)
        frame = read_frame(path, 0, FIRST)
        assert info.dtype == dtype == frame.image.dtype.name
        assert frame.invalid is None
        assert_array_equal(frame.image, image)

    @pytest.mark.parametrize(("scheme", "dtype"), TILE_COMPRESSIONS)
    def test_tile_compression(self, tmp_path: Path, scheme: str, dtype: str) -> None:
        image = RNG.integers(0, 99, (40, 50)).astype(dtype)
        path = write(
            tmp_path / "a.fits.fz", fits.PrimaryHDU(), fits.CompImageHDU(image, compression_type=scheme)
        )
        (info,) = probe(path, FIRST)
        frame = read_frame(path, 1, FIRST)
        assert info.dtype == frame.image.dtype.name == dtype
        assert "ZIMAGE" not in info.header
        check_like_astropy(path, 1, frame)

    @pytest.mark.parametrize(
        ("values", "cards", "dtype"),
        [
            (np.array([[1, -2]], "i2"), {"BZERO": 32767}, "float32"),  # one off the unsigned convention
            (np.array([[1, -2]], "i2"), {"BSCALE": 2, "BZERO": 32768}, "float32"),
            (np.array([[1, 200]], "u1"), {"BSCALE": 0.5}, "float32"),
            (np.array([[1, -2]], "i4"), {"BSCALE": 0.1, "BZERO": 3}, "float64"),
            (np.array([[1, -2]], "i8"), {"BZERO": 3}, "float64"),
            (np.array([[1, -2]], "f4"), {"BSCALE": 3, "BZERO": 1}, "float32"),
            (np.array([[1, -2]], "i2"), {"BSCALE": "1.0", "BZERO": "0.0"}, "int16"),
            (np.array([[1, -2]], "i4"), {"BZERO": "2147483648.0"}, "uint32"),
            (np.array([[1, 7]], "i2"), {"BLANK": 7, "BSCALE": 2}, "float32"),
            (np.array([[np.nan, 7]], "f8"), {}, "float64"),
        ],
    )
    def test_scaling(self, tmp_path: Path, values: np.ndarray, cards: dict, dtype: str) -> None:
        path = stored(tmp_path / "a.fits", cards, values)
        (info,) = probe(path, FIRST)
        frame = read_frame(path, 0, FIRST)
        assert info.dtype == frame.image.dtype.name == dtype
        check_like_astropy(path, 0, frame)

    @pytest.mark.parametrize(("blank", "zero"), [(-5, 0), (0, 0), (-32768, 32768)])
    def test_blank_keeps_integers(self, tmp_path: Path, blank: int, zero: int) -> None:
        values = np.array([[blank, 5, 9]], "i2")
        frame = read_frame(stored(tmp_path / "a.fits", {"BZERO": zero, "BLANK": blank}, values), 0, FIRST)
        assert frame.image.dtype.kind in "iu"
        assert_array_equal(frame.image, values.astype("i8") + zero)
        assert_array_equal(frame.invalid, [[True, False, False]])

    def test_axes_of_length_one(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE[np.newaxis, np.newaxis]))
        (info,) = probe(path, FIRST)
        assert info.shape == IMAGE.shape
        assert_array_equal(read_frame(path, 0, FIRST).image, IMAGE)

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes])
    def test_compression_by_content(self, tmp_path: Path, pack) -> None:
        """The name says nothing; digest and size are those of the file on disk."""
        plain = write(tmp_path / "plain", fits.PrimaryHDU(IMAGE)).read_bytes()
        path = tmp_path / "named.fits"
        path.write_bytes(pack(plain))
        frame = read_frame(path, probe(path, FIRST)[0].hdu, FIRST)
        assert_array_equal(frame.image, IMAGE)
        assert (frame.sha256, frame.size) == (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
        )


class TestChoice:
    @pytest.fixture
    def mosaic(self, tmp_path: Path) -> Path:
        """Two SCI, each with its DQ, a named and an unnamed image, a table."""
        hdus = [fits.PrimaryHDU()]
        for version in (1, 2):
            hdus.append(fits.ImageHDU(IMAGE + version, name="SCI", ver=version))
            hdus.append(fits.ImageHDU(np.equal(IMAGE % 5, version).astype("u1"), name="DQ", ver=version))
        hdus += [fits.ImageHDU(IMAGE, name="GUIDE"), fits.ImageHDU(IMAGE), fits.BinTableHDU(name="CAT")]
        return write(tmp_path / "m.fits", *hdus)

    @pytest.mark.parametrize(
        ("read", "expected"),
        [
            (ReadSpec(), {1: ""}),
            (ReadSpec(hdu="3"), {3: ""}),
            (ReadSpec(hdu="guide"), {5: ""}),
            (ReadSpec(hdu="SCI,2"), {3: ""}),
            (
                ReadSpec(hdu="all", mask_hdu="DQ"),
                {1: "[SCI,1]", 3: "[SCI,2]", 5: "[GUIDE]", 6: "[6]"},
            ),
        ],
    )
    def test_hdu(self, mosaic: Path, read: ReadSpec, expected: dict[int, str]) -> None:
        assert {info.hdu: info.suffix for info in probe(mosaic, read)} == expected

    @pytest.mark.parametrize(
        ("hdu", "reason"),
        [
            ("ERR", r"no HDU 'ERR'; the file has the HDUs 0, 1 'SCI', 2 'DQ'"),
            ("99", "no HDU '99'"),
            ("CAT", r"HDU 'CAT' is not a 2-D image: a table \(BINTABLE\)"),
            ("0", "HDU '0' is not a 2-D image: a header without data"),
        ],
    )
    def test_hdu_that_is_none(self, mosaic: Path, hdu: str, reason: str) -> None:
        with pytest.raises(FrameError, match=reason):
            probe(mosaic, ReadSpec(hdu=hdu))

    def test_names_that_do_not_tell_apart(self, tmp_path: Path) -> None:
        hdus = [fits.ImageHDU(IMAGE, name=name) for name in ("A", "a", "3", "B")]
        path = write(tmp_path / "m.fits", fits.PrimaryHDU(), *hdus)
        assert [info.suffix for info in probe(path, ALL)] == ["[1]", "[2]", "[3]", "[B]"]

    @pytest.mark.parametrize("hdu", [1, 3])
    def test_mask_of_the_same_version(self, mosaic: Path, hdu: int) -> None:
        frame = read_frame(mosaic, hdu, ReadSpec(hdu="all", mask_hdu="DQ"))
        assert_array_equal(frame.invalid, np.equal(IMAGE % 5, (hdu + 1) // 2))

    @pytest.mark.parametrize(
        ("mask", "reason"), [("NO", "no mask HDU 'NO'"), ("CAT", "mask HDU 'CAT'.*a table")]
    )
    def test_mask_that_is_none(self, mosaic: Path, mask: str, reason: str) -> None:
        with pytest.raises(FrameError, match=reason):
            read_frame(mosaic, 1, ReadSpec(mask_hdu=mask))

    def test_bad_pixel_map(self, mosaic: Path, tmp_path: Path) -> None:
        good = write(tmp_path / "bad.fits", fits.PrimaryHDU((IMAGE > 60000).astype("u1")))
        other = write(tmp_path / "other.fits", fits.PrimaryHDU(np.ones((3, 4), "u1")))
        frame = read_frame(mosaic, 1, ReadSpec(mask_hdu="DQ", bad_pixel_map=str(good)))
        assert_array_equal(frame.invalid, (IMAGE > 60000) | (IMAGE % 5 == 1))
        with pytest.raises(FrameError, match="the mask is 3 x 4 px, the image 30 x 41 px"):
            read_frame(mosaic, 1, ReadSpec(bad_pixel_map=str(other)))
        with pytest.raises(FrameError, match="bad-pixel map /nowhere"):
            read_frame(mosaic, 1, ReadSpec(bad_pixel_map="/nowhere"))


class TestDamage:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "an empty file"),
            (bytes(6000), "starts with zero bytes"),
            (b"\x1f\x8b\x08\x00", "truncated: the gzip stream"),
            (b"BZh9nonsense", "damaged bzip2 stream"),
            (b"\x1f\x9d", r"damaged compress \(.Z\) stream"),
            (gzip.compress(b"hello", mtime=0), "not a FITS file .starts with 'hello'"),
            (b"SIMPLE  =                    T".ljust(2880), "truncated header: no END card"),
        ],
    )
    def test_content(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(content)
        for use in (lambda: probe(path, FIRST), lambda: read_frame(path, 0, FIRST)):
            with pytest.raises(FrameError, match=reason):
                use()

    @pytest.mark.parametrize(
        ("card", "reason"),
        [
            ("BITPIX  =                   17", "BITPIX = 17, which is not a FITS pixel type"),
            ("NAXIS1  =                  -50", "negative axis"),
            ("NAXIS1  = 'wide    '", "NAXIS1 = 'wide', which is not an integer"),
            ("NAXIS   =                    5", "no readable NAXIS5"),
            ("BZERO   = 'much    '", "BZERO = 'much', which is not a number"),
        ],
    )
    def test_structural_card(self, tmp_path: Path, card: str, reason: str) -> None:
        right = {"SIMPLE": "T", "BITPIX": "16", "NAXIS": "2", "NAXIS1": "3", "NAXIS2": "4"}
        cards = [f"{key:8}= {value:>20}" for key, value in right.items() if key != card[:8].strip()]
        with pytest.raises(FrameError, match=reason):
            probe(raw_file(tmp_path / "a.fits", [cards[0], card, *cards[1:]], bytes(2880)), FIRST)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_truncated_data(self, tmp_path: Path, compressed: bool) -> None:
        big = RNG.integers(0, 2**15, (200, 200)).astype("i2")
        hdu = fits.CompImageHDU(big) if compressed else fits.ImageHDU(big)
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), hdu)
        path.write_bytes(path.read_bytes()[:20000])
        for use in (lambda: probe(path, FIRST), lambda: read_frame(path, 1, FIRST)):
            with pytest.raises(FrameError, match=r"truncated: HDU 1 needs \d+ bytes of data, 1\d+ are there"):
                use()

    def test_huge_axes_take_no_memory(self, tmp_path: Path) -> None:
        lines = {"SIMPLE": "T", "BITPIX": "-64", "NAXIS": "2", "NAXIS1": "9999999", "NAXIS2": "9999999"}
        path = raw_file(tmp_path / "a.fits", [f"{key:8}= {value:>20}" for key, value in lines.items()])
        with pytest.raises(FrameError, match="truncated"):
            read_frame(path, 0, FIRST)

    def test_no_valid_pixel(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(np.full((3, 4), np.nan)))
        with pytest.raises(FrameError, match="no valid pixel"):
            read_frame(path, 0, FIRST)

    def test_bytes_after_the_last_hdu_are_ignored(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE))
        path.write_bytes(path.read_bytes() + bytes(2880) + b"notes")
        assert len(probe(path, ALL)) == 1

    def test_random_damage(self, tmp_path: Path) -> None:
        """Flipped bytes anywhere give a frame or a reason, never another exception."""
        path = tmp_path / "a.fits"
        hdus = fits.HDUList([fits.PrimaryHDU(IMAGE), fits.CompImageHDU(IMAGE, name="C")])
        buffer = io.BytesIO()
        hdus.writeto(buffer)
        whole = np.frombuffer(buffer.getvalue(), "u1")
        headers = np.flatnonzero(whole > 32)  # most places where damage means something
        for _ in range(150):
            damaged = whole.copy()
            damaged[RNG.choice(headers, 3)] = RNG.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                for info in probe(path, ALL):
                    read_frame(path, info.hdu, FIRST)
            except FrameError:
                continue

    def test_paths(self, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(link)
        for path, reason in [
            (tmp_path / "gone", "not there"),
            (tmp_path, "a folder, not a file"),
            (Path("/dev/null"), "not a regular file"),
            (link, "go in a circle"),
        ]:
            with pytest.raises(FrameError, match=reason):
                probe(path, FIRST)
            with pytest.raises(FrameError, match=reason):
                load_bytes(path)

    @pytest.mark.parametrize("call", ["open", "read"])
    @pytest.mark.parametrize(
        ("number", "reason"),
        [
            (errno.ENOENT, "not there"),
            (errno.EACCES, "permission denied"),
            (errno.EIO, "Input/output error"),
            (errno.ESTALE, "Stale file handle"),
            (errno.ETIMEDOUT, "timed out"),
            (errno.EMFILE, ""),
            (errno.ENFILE, ""),
            (errno.ENOMEM, ""),
        ],
    )
    def test_fault_of_the_source_or_of_the_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, call: str
    ) -> None:
        """A source out of reach says nothing of the frame; a machine out of resources neither."""
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE))

        def fail(*_: object) -> None:
            raise OSError(number, "made to fail")

        if call == "read":
            monkeypatch.setattr("aqdask.io.streams.FileStream.read", fail)
        else:
            monkeypatch.setattr(f"os.{call}", fail)
        for use in (lambda: probe(path, FIRST), lambda: read_frame(path, 0, FIRST), lambda: load_bytes(path)):
            if reason:
                with pytest.raises(SourceUnreachable, match=reason) as caught:
                    use()
                assert caught.value.number == number
            else:
                with pytest.raises(OSError, match="made to fail"):
                    use()

    def test_lzw_without_its_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "uncompresspy", None)
        (tmp_path / "a.fits.Z").write_bytes(b"\x1f\x9d\x90")
        with pytest.raises(FrameError, match=r"pip install uncompresspy \(or aqdask\[lzw\]\)"):
            probe(tmp_path / "a.fits.Z", FIRST)


class TestOut:
    @pytest.mark.parametrize("dtype", SUPPORTED)
    @pytest.mark.parametrize("extension", [False, True])
    def test_round_trip(self, tmp_path: Path, dtype: str, extension: bool) -> None:
        """Pixels, type and every card that is not structure come back as they were."""
        image = RNG.integers(0, 99, (7, 9)).astype(dtype)
        header = fits.Header(
            [("EXPTIME", 60.0, "seconds"), ("HIERARCH ESO DET ID", "x"), ("BSCALE", 7), ("CHECKSUM", "0")]
        )
        header["HISTORY"] = "flat-fielded"
        header["LONG"] = "a text that does not fit into one card " * 4
        text = header.tostring(endcard=False, padding=False) + "BROKEN  = 'no closing quote".ljust(80)
        out = tmp_path / "out.fits"
        frame_to_fits(image, text, text if extension else "").writeto(out)
        (info,) = probe(out, FIRST)
        frame = read_frame(out, info.hdu, FIRST)
        assert (info.hdu, info.dtype) == (int(extension), dtype)
        assert_array_equal(frame.image, image)
        written = {info.header[n : n + 80] for n in range(0, len(info.header), 80)}
        given = [text[n : n + 80] for n in range(0, len(text), 80)]
        assert {card for card in given if not card.startswith(("BSCALE", "CHECKSUM", "BROKEN"))} <= written
        assert "BROKEN" in info.header
        assert "BSCALE  =                    7" not in info.header
        assert "CHECKSUM= '0" not in info.header

    def test_blank_survives_where_it_means_something(self, tmp_path: Path) -> None:
        path = stored(tmp_path / "a.fits", {"BZERO": 32768, "BLANK": -32768}, np.array([[-32768, 4]], "i2"))
        (info,) = probe(path, FIRST)
        frame_to_fits(read_frame(path, 0, FIRST).image, info.header, "").writeto(tmp_path / "out.fits")
        assert_array_equal(read_frame(tmp_path / "out.fits", 0, FIRST).invalid, [[True, False]])
