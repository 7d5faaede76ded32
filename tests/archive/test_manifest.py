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

from aqdask.archive.manifest import assign_ids, safe_name, scan
from aqdask.errors import UsageError
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
            scan([tree]).sources

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


class TestSafeName:
    @pytest.mark.parametrize(
        ("frame_id", "expected"),
        [
            ("a.fits", "a"),
            ("night/sub/img_001.fits", "night__sub__img_001"),
            ("night/a.fit", "night__a.fit"),
            ("night/a.fits.fz", "night__a.fits.fz"),
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
