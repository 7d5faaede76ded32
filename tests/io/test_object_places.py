"""Names of files and objects by one set of functions, and small files that are written only once."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqdask.io import places


@pytest.mark.parametrize(
    ("place", "above", "inside", "beside"),
    [
        ("s3://b/n/a.zarr", "s3://b/n", "s3://b/n/a.zarr/x/y", "s3://b/n/c"),
        ("s3://b/n/a.zarr/", "s3://b/n", "s3://b/n/a.zarr/x/y", "s3://b/n/c"),
        ("/d/n/a.zarr", "/d/n", "/d/n/a.zarr/x/y", "/d/n/c"),
    ],
)
def test_names(place, above, inside, beside):
    assert places.parent(places.absolute(place)) == above
    assert places.join(place, "x/y") == inside
    assert places.beside(place, "c") == beside


def test_a_relative_path_becomes_absolute_and_an_address_stays():
    assert places.absolute("a.zarr") == str(Path.cwd() / "a.zarr")
    assert places.absolute("s3://b/a.zarr/") == "s3://b/a.zarr"


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("s3://b/*.fits", "s3://b/a.fits", True),
        ("s3://b/*.fits", "s3://b/x/a.fits", False),
        ("s3://b/**/*.fits", "s3://b/a.fits", True),
        ("s3://b/**/*.fits", "s3://b/x/y/a.fits", True),
        ("s3://b/n?/[ab]*", "s3://b/n1/b2", True),
        ("s3://b/n?/[!ab]*", "s3://b/n1/b2", False),
        ("s3://b/n?/[!ab]*", "s3://b/n1/c", True),
        ("s3://b/a+(1).*", "s3://b/a+(1).fits", True),
        ("s3://b/a.f*", "s3://b/axfits", False),
    ],
)
def test_patterns(pattern, name, matches):
    assert bool(places.matching(pattern).fullmatch(name)) is matches


def test_a_small_file_is_made_once_and_replaced_by_who_knows_it(tmp_path):
    place = str(tmp_path / "lock")
    assert places.fetch(place) is None
    first = places.create(place, b"one")
    assert first
    assert places.create(place, b"two") is None
    assert places.fetch(place) == (b"one", first)
    second = places.replace(place, b"two", first)
    assert second
    assert places.replace(place, b"three", first) is None
    assert places.fetch(place) == (b"two", second)
    places.delete(place)
    places.delete(place)
    assert places.replace(place, b"three", second) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    with pytest.raises(FileExistsError, match="a"):
        places.write_file(tmp_path / "a", b"two", new=True)
    with pytest.raises(TypeError, match="bytes-like"):
        places.write_file(tmp_path / "b", "text")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"one")]


def test_siblings(tmp_path):
    for name in ("n-1x2-a.zarr", "n-3x4-b.zarr", "m-1x2-a.zarr"):
        (tmp_path / name).mkdir()
    found = places.siblings(tmp_path / "n.zarr", "n-*x*-*.zarr")
    assert [Path(path).name for path in found] == ["n-1x2-a.zarr", "n-3x4-b.zarr"]


def test_without_the_package_an_address_says_what_to_install(monkeypatch):
    import sys

    from aqdask.errors import UsageError

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    places._bucket.cache_clear()
    with pytest.raises(UsageError, match=r"needs the package obstore.*pip install 'aqdask\[s3\]'"):
        places.bucket("s3://bucket/x")
    places._bucket.cache_clear()
