"""Scanning folders, globs and lists; ids that stay; names that are safe."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from aqdask.errors import UsageError
from aqdask.io.sources import Scan, scan
from aqdask.specs import Source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ["a.fits", "B.FIT.gz", "sub/c.fits.fz", "sub/deep/d.fts.Z", "e.mt", "notes.txt", "sub/f.dat",
                 ".hidden.fits", ".cache/g.fits"]:  # fmt: skip
        path = tmp_path / "night" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 7)
    return tmp_path / "night"


def relatives(sources: Sequence[Source]) -> list[str]:
    return [source.relative for source in sources]


class TestScan:
    def test_folder(self, tree: Path) -> None:
        found = scan([tree]).sources
        assert relatives(found) == ["B.FIT.gz", "a.fits", "e.mt", "sub/c.fits.fz", "sub/deep/d.fts.Z"]
        assert {(source.root, source.size) for source in found} == {(str(tree), 7)}
        assert found[1].mtime_ns == (tree / "a.fits").stat().st_mtime_ns
        assert found[1].path == str(tree / "a.fits")

    def test_file_is_taken_whatever_its_name(self, tree: Path) -> None:
        (found,) = scan([tree / "notes.txt"]).sources
        assert (found.relative, found.root) == ("notes.txt", str(tree))

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.fits", ["a.fits"]),
            ("**/*.f*", ["a.fits", "sub/c.fits.fz", "sub/deep/d.fts.Z"]),
            ("sub/*", ["c.fits.fz", "deep/d.fts.Z", "f.dat"]),  # a folder stands for the FITS files in it
            ("s*/[cf].*", ["sub/c.fits.fz", "sub/f.dat"]),
        ],
    )
    def test_glob(self, tree: Path, pattern: str, expected: list[str]) -> None:
        if pattern == "**/*.f*":
            (tree / "sub/f.dat").unlink()
        assert relatives(scan([f"{tree}/{pattern}"]).sources) == expected

    def test_list(self, tree: Path, tmp_path: Path) -> None:
        (tmp_path / "other.fits").touch()
        listing = tree / "list.txt"
        listing.write_text(f"# frames\n a.fits \n\nsub/gone.fits # was here\n{tmp_path}/other.fits\nsub\n")
        found = {source.relative: source for source in scan([f"@{listing}"]).sources}
        assert sorted(found) == ["a.fits", "other.fits", "sub/c.fits.fz", "sub/deep/d.fts.Z", "sub/gone.fits"]
        assert found["other.fits"].root == str(tmp_path)
        assert (found["sub/gone.fits"].size, found["sub/gone.fits"].mtime_ns) == (-1, 0)

    def test_every_file_once_whatever_the_order(self, tree: Path) -> None:
        sources = [str(tree), f"{tree}/sub", f"{tree}/*.fits", tree / "a.fits", f"{tree}/sub/**"]
        expected = scan(sources).sources
        assert len({source.path for source in expected}) == len(expected) == 6
        for _ in range(5):
            random.Random(1).shuffle(sources)
            assert scan(sources).sources == expected

    def test_links(self, tree: Path, tmp_path: Path) -> None:
        """Followed; one that leads back up ends; a broken one is a source that will be quarantined."""
        (tree / "sub/up").symlink_to(tree)
        (tree / "broken.fits").symlink_to(tmp_path / "nowhere")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/z.fits").touch()
        (tree / "linked").symlink_to(tmp_path / "elsewhere")
        found = {source.relative: source.size for source in scan([tree]).sources}
        assert len(found) == 7
        assert found["broken.fits"] == -1
        assert found["linked/z.fits"] == 0

    def test_folder_named_like_a_frame_and_pipe(self, tree: Path) -> None:
        (tree / "folder.fits").mkdir()
        os.mkfifo(tree / "pipe.fits")
        found = {source.relative: source.size for source in scan([tree]).sources}
        assert "folder.fits" not in found
        assert found["pipe.fits"] == -1

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("gone", r"there is no '.*gone'.*Expected: a file.*nothing to read.*What to do"),
            ("@gone.txt", r"there is no '@.*gone\.txt'"),
            ("sub/*.none", r"no FITS file in .*Expected: FITS files.*What to do"),
            ("empty", "no FITS file in"),
            ("@empty.txt", "no FITS file in"),
        ],
    )
    def test_nothing_there(self, tree: Path, source: str, message: str) -> None:
        (tree / "empty").mkdir()
        (tree / "empty.txt").touch()
        at = "@" if source.startswith("@") else ""
        with pytest.raises(UsageError, match=message):
            scan([f"{at}{tree}/{source.removeprefix('@')}"])

    def test_unreadable_folder(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scandir = os.scandir

        def refuse(path: str):
            if str(path).endswith("deep"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(UsageError, match=r"deep' cannot be read: Permission denied"):
            scan([tree])

    def test_what_is_left_out_is_counted_by_suffix(self, tree: Path) -> None:
        for name in ("h.FITS.PART", "i.fits.tmp", "j.001", "k.002", "l", "m.fit.XZ", "n.Fts.zip", "o.FTZ"):
            (tree / name).touch()
        found = scan([tree, tree / "sub/f.dat", f"{tree}/sub"])  # named twice is counted once, or taken
        assert {"m.fit.XZ", "n.Fts.zip", "o.FTZ", "f.dat"} <= set(relatives(found.sources))
        expected = {
            "other": 2,
            ".part": 1,
            ".tmp": 1,
            ".txt": 1,
            "hidden": 1,
            "hidden folder": 1,
            "no suffix": 1,
        }
        assert dict(found.left_out) == expected
        assert next(iter(found.left_out)) == "other"
        assert found.note().startswith(
            "8 files left out by suffix: other 2, .part 1, .tmp 1, .txt 1, hidden 1"
        )
        assert Scan((), {".tmp": 1}).note() == "1 file left out by suffix: .tmp 1"
        assert scan([tree / "a.fits"]).note() == ""
        assert Scan((), {f".x{n}": 1 for n in range(10)}).note().endswith(".x7 1 and 2 more")

    def test_the_chunks_of_an_archive_in_the_folder_are_no_files_of_the_night(self, tree: Path) -> None:
        for name in ("night.zarr/zarr.json", "night.zarr/frames/image/c/0/0/0", "night.zarr/x.fits"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).touch()
        found = scan([tree])
        assert found.left_out["zarr folder"] == 1
        assert ".json" not in found.left_out
        assert "no suffix" not in found.left_out
        assert "night.zarr/x.fits" in relatives(found.sources)

    def test_a_folder_without_frames_says_what_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "a.fits.part").touch()
        with pytest.raises(UsageError, match=r"no FITS file in .* \(1 file left out by suffix: \.part 1\)"):
            scan([tmp_path])

    def test_a_link_to_itself_and_one_to_nowhere(self, tree: Path) -> None:
        (tree / "loop").symlink_to("loop")
        (tree / "none").symlink_to("nowhere")
        assert scan([tree]).left_out["no suffix"] == 2

    def test_lists_as_other_systems_write_them(self, tree: Path) -> None:
        odd = [
            "  lead.fits",
            "c #2.fits",
            "trail.fits ",
            "b_\u00e9.fits",
            "M31_\udce9.fits",
            "N\u00e9b/x.fits",
        ]
        for name in odd:
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).touch()
        lines = [b"# a comment", b"", b"  lead.fits", b"c #2.fits", b"trail.fits ", b"  a.fits  # why",
                 b"e.mt #", b"b_\xe9.fits", b"M31_\xe9.fits", b"N\xe9b/x.fits"]  # fmt: skip
        (tree / "l.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
        found = scan([f"@{tree}/l.txt"]).sources
        assert sorted(relatives(found)) == sorted([*odd, "a.fits", "e.mt"])
        assert {source.size for source in found} == {0, 7}

    def test_ten_thousand_files(self, tmp_path: Path) -> None:
        for number in range(10_000):
            os.close(os.open(tmp_path / f"{number}.fits", os.O_CREAT))
        began = time.perf_counter()
        assert len(scan([tmp_path]).sources) == 10_000
        assert time.perf_counter() - began < 2  # 0.1 s on an idle machine
