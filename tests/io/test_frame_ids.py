"""Frame ids: unique and stable, matched by patterns, safe as file names."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.errors import UsageError
from aqdask.io.frame_ids import assign_ids, list_line, listed_frames, match_frames, safe_name
from aqdask.specs import Source
from aqdask.text import printable

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

    @settings(max_examples=300, deadline=None)  # it writes a file
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
