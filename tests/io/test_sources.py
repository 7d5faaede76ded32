"""Scanning folders, globs and lists; ids that stay; names that are safe."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.errors import UsageError
from aqdask.io.frame_ids import assign_ids, list_line, listed_frames, match_frames, safe_name
from aqdask.io.sources import Scan, scan
from aqdask.specs import Source
from aqdask.text import printable


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


roots = st.sampled_from(["/x/night", "/y/night", "/z", "/z/night", "/", "/night/a.fits", "/night~2"])
names = st.sampled_from(
    ["a.fits", "b.fits", "night/a.fits", "z/a.fits", "night~2/a.fits", "night/night/a.fits"]
)
sources = st.lists(st.tuples(roots, names), max_size=16).map(
    lambda pairs: list({f"{r}|{n}": Source(f"{r}|{n}", r, n, 1, 1) for r, n in pairs}.values())
)


class TestIds:
    def test_relative_path_where_it_is_unique(self) -> None:
        found = [Source("/r/a", "/r", "a", 1, 1), Source("/r/s/b", "/r", "s/b", 1, 1)]
        assert assign_ids(found, {}) == {"/r/a": "a", "/r/s/b": "s/b"}

    def test_label_on_collision(self) -> None:
        found = [Source(f"{root}/a", root, "a", 1, 1) for root in ("/1/n", "/2/n", "/3/m")]
        assert assign_ids(found, {}) == {"/1/n/a": "n/a", "/2/n/a": "n~2/a", "/3/m/a": "m/a"}

    def test_known_id_of_another_path(self) -> None:
        assert assign_ids([Source("/2/n/a", "/2/n", "a", 1, 1)], {"/1/n/a": "a"}) == {"/2/n/a": "n/a"}

    def test_ids_are_printable_and_the_escaped_forms_are_unique(self) -> None:
        relatives = ["a\x1b.fits", "a\\x1b.fits", "M31_\udce9.fits", "new\nline.fits", "\u00e9.fits"]
        found = [Source(f"/N\udce9b/{name}", "/N\udce9b", name, 1, 1) for name in relatives]
        ids = assign_ids(found, {})
        assert len(set(ids.values())) == len(found)
        assert all(printable(name) == name for name in ids.values())
        assert set(ids.values()) == {
            "N\\xe9b/a\\x1b.fits", "N\\xe9b~2/a\\x1b.fits", "M31_\\xe9.fits", "new\\x0aline.fits",
            "\u00e9.fits",
        }  # fmt: skip
        assert assign_ids(found[::-1], {}) == ids

    def test_ids_of_earlier_runs_are_kept_as_they_are(self) -> None:
        found = [Source("/n/a\tb", "/n", "a\tb", 1, 1)]
        assert assign_ids(found, {"/n/a\tb": "a\tb"}) == {"/n/a\tb": "a\tb"}

    @given(sources, st.randoms(use_true_random=False))
    def test_unique_and_independent_of_order(self, found: list[Source], order: random.Random) -> None:
        ids = assign_ids(found, {})
        assert len(set(ids.values())) == len(found)
        order.shuffle(found)
        assert assign_ids(found, {}) == ids

    @given(sources, st.data())
    def test_resuming_gives_the_same_ids(self, found: list[Source], data: st.DataObject) -> None:
        ids = assign_ids(found, {})
        known = {path: name for path, name in ids.items() if data.draw(st.booleans())}
        assert assign_ids(found, known) == ids

    @given(sources, sources)
    def test_adding_renames_nothing(self, before: list[Source], after: list[Source]) -> None:
        known = assign_ids(before, {})
        ids = assign_ids(after, known)
        everything = known | ids
        assert {path: everything[path] for path in known} == known
        assert len(set(everything.values())) == len(everything)


class TestMatch:
    IDS = (
        "L/a.fits",
        "L/b.fits",
        "[1].fits",
        "1.fits",
        "star*.fits",
        "star1.fits",
        "t\\x09b.fits",
        "old\tid",
        "\u00e9t\u00e9.fits",
    )

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("L/*", ["L/a.fits", "L/b.fits"]),
            ("[1].fits", ["[1].fits"]),  # an id means itself, not what it would match
            ("star*.fits", ["star*.fits"]),
            ("star?.fits", ["star*.fits", "star1.fits"]),
            ("t\tb.fits", ["t\\x09b.fits"]),  # as a shell completes the file's name
            ("t\\x09b.fits", ["t\\x09b.fits"]),
            ("old\\x09id", ["old\tid"]),  # an id of an earlier release, as it is shown
            ("old*", ["old\tid"]),
            ("\udce9t\udce9.fits", ["\u00e9t\u00e9.fits"]),  # from a list in Latin-1
        ],
    )
    def test_frames_by_what_is_shown(self, pattern: str, expected: list[str]) -> None:
        assert match_frames(self.IDS, [pattern]) == expected

    def test_no_such_frame(self) -> None:
        with pytest.raises(UsageError, match=r"no frame 'x\\x1b'.*for example 'L/a\.fits'"):
            match_frames(self.IDS, ["x\x1b"])

    @settings(max_examples=300)
    @given(ids=st.lists(st.text("a#[*?] !-", min_size=1, max_size=5), min_size=1, unique=True))
    def test_what_is_listed_is_found_again(
        self, ids: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        listing = tmp_path_factory.getbasetemp() / "ids.txt"
        for frame_id in ids:
            if list_line(frame_id) in set(ids) - {frame_id}:  # '#' is listed as '[#]', which may be an id too
                continue
            listing.write_text(list_line(frame_id) + "\n")
            assert match_frames(ids, listed_frames(str(listing))) == [frame_id]


class TestSafeName:
    @pytest.mark.parametrize(
        ("frame_id", "expected"),
        [
            ("a.fits", "a"),
            ("night/sub/img_001.fits", "night__sub__img_001"),
            ("night/a.fit", "night__a.fit"),
            ("night/a.fits.fz", "night__a.fits.fz"),
            ("night/a.fits.xz", "night__a.fits.xz"),
            ("a.ftz", "a.ftz"),
            ("esc\\x1b.fits", "esc_x1b-"),
            ("a.fit.fits", "a.fit-"),
            ("a.fits.fz[SCI,1]", "a.fits.fz_SCI_1-"),
            ("a b.fits", "a_b-"),
            ("../../etc/passwd", "_.__..__etc__passwd-"),
        ],
    )
    def test_readable(self, frame_id: str, expected: str) -> None:
        name = safe_name(frame_id)
        assert name == expected or (expected.endswith("-") and name[:-8] == expected)

    @settings(max_examples=300)
    @given(
        st.lists(st.text("ab_-./[ ]~Z0é\n", min_size=1, max_size=9).map(lambda s: s + ".fits"), max_size=30)
    )
    def test_safe_and_injective(self, ids: list[str]) -> None:
        ids = list({*ids, *(i.removesuffix(".fits") for i in ids), *(safe_name(i) + ".fits" for i in ids)})
        made = [safe_name(frame_id) for frame_id in ids]
        assert len(set(made)) == len(ids)
        for name in made:
            assert name.isascii()
            assert not set(name) & set("/[] \n~")
            assert name[0] not in ".-"

    def test_length(self) -> None:
        made = {safe_name("long/" * 100 + f"{n}.fits") for n in range(5)}
        assert len(made) == 5
        assert max(map(len, made)) < 200
