"""Paths in every option and function: URLs are refused, and pipes never block."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from night import executed, tiny_bundle

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.errors import ModelError, UsageError
from aqdask.paths import check_local, check_place, read_list, read_regular, write_text
from aqdask.products.open import write_mask

URL = "gs://bucket/night"
OBJECT = "s3://bucket/night"
ELSEWHERE = """\
ingest URL a.zarr
ingest @URL a.zarr
ingest URL/*.fits a.zarr
ingest NIGHT URL
ingest NIGHT a.zarr --bad-pixel-map URL
ingest NIGHT a.zarr --cluster slurm:URL
ingest NIGHT a.zarr --cluster URL
run URL a.zarr --model MODEL
run NIGHT URL --model MODEL
run NIGHT a.zarr --model URL
run NIGHT a.zarr --model MODEL --products URL
verify URL
info URL
select URL
select ARCHIVE --out URL
train URL --out m
train ARCHIVE --out URL
train ARCHIVE --out m --frames @URL
calibrate URL --model MODEL --out m
calibrate ARCHIVE --model URL --out m
calibrate ARCHIVE --model MODEL --out URL
calibrate ARCHIVE --model MODEL --out m --frames @URL
score URL --model MODEL
score ARCHIVE --model URL
mask URL
mask ARCHIVE --out URL
mask ARCHIVE --pictures URL
export URL out
export ARCHIVE URL
compare URL
simulate URL
demo URL""".splitlines()


# What is written beside an archive stays on file systems, and so do models.
OUTPUT = "--(out|products|pictures|model|frames) @?|slurm:|export ARCHIVE |simulate |demo |ingest @"
OUTPUTS = [line.replace("URL", OBJECT) for line in ELSEWHERE if re.search(f"({OUTPUT})URL", line)]


@pytest.mark.parametrize("line", [*ELSEWHERE, *OUTPUTS])
def test_a_url_is_refused_by_every_command_before_anything_is_made(
    line, night, archive, model, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = {"NIGHT": night, "ARCHIVE": archive, "MODEL": model, "URL": URL}
    for word, value in words.items():
        line = line.replace(word, str(value))
    cluster = [] if "--cluster" in line else executed(line.split()[0])
    result = CliRunner().invoke(aqdask, [*line.split(), *cluster])
    assert result.exit_code == 2, result.output
    (paragraph,) = result.stderr.splitlines()
    assert URL in paragraph or OBJECT in paragraph
    assert "Expected: " in paragraph
    assert os.listdir() == []


FUNCTIONS = {
    "ingest": lambda a, m: aq.ingest(URL, "a.zarr"),
    "ingest into": lambda a, m: aq.ingest(a, URL),
    "ingest paths": lambda a, m: aq.ingest([Path(URL)], "a.zarr"),
    "bad-pixel map": lambda a, m: aq.ingest(a, "a.zarr", bad_pixel_map=URL),
    "run": lambda a, m: aq.run(URL, "a.zarr", m),
    "products": lambda a, m: aq.run(a, "a.zarr", m, products=Path(URL)),
    "score": lambda a, m: aq.score(URL, m),
    "model": lambda a, m: aq.score(a, URL),
    "export": lambda a, m: aq.export(URL, "out"),
    "export into": lambda a, m: aq.export(a, URL),
    "verify": lambda a, m: aq.verify(URL),
    "open_frames": lambda a, m: aq.open_frames(URL),
    "open_quality": lambda a, m: aq.open_quality(URL),
    "load_model": lambda a, m: aq.load_model(Path(URL)),
    "select": lambda a, m: aq.select(URL),
    "train": lambda a, m: aq.train(URL),
    "train out": lambda a, m: aq.train(a, out=URL),
    "calibrate": lambda a, m: aq.calibrate(URL, m),
    "calibrate out": lambda a, m: aq.calibrate(a, m, out=URL),
    "save": lambda a, m: tiny_bundle().save(URL),
    "write_mask": lambda a, m: write_mask(aq.mask(aq.open_quality(a), 0.1), URL),
}


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_a_url_is_refused_by_every_function(call, archive, model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match=r"gs:/+bucket/night is not on this machine.*Expected: a path"):
        call(archive, model)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "place",
    [
        "gs://b/x",
        "https://a/b.fits",
        "file:///data/a",
        "S3://b",
        "simplecache::s3://b",
        Path("s3://b/x"),
        "@az://x",
    ],
)
def test_urls(place):
    with pytest.raises(UsageError, match="not on this machine"):
        check_local(place)


@pytest.mark.parametrize(
    "place", ["a:b.fits", "/x/a://b", "./s3://b", "2024-05-01T03:00/a", b"x", None, 3, "@l.txt", "M31:/a"]
)
def test_what_is_no_url(place):
    check_local(place)


@pytest.mark.parametrize("place", ["s3://b", "s3://b/x", "s3://b/night 1/*.fits", "a.fits", "./s3://b", None])
def test_places_of_sources_and_archives(place):
    check_place(place)


@pytest.mark.parametrize("place", ["s3://", "s3:///x", "s3://b//x", "s3://b/a\0", "s3://b/a\x1b[2J"])
def test_addresses_that_no_object_has(place):
    with pytest.raises(UsageError, match="is no address of an object"):
        check_place(place)


@pytest.mark.parametrize("place", [Path("s3://b/x"), "s3a://b/x", "gs://b/x", "@s3://b/x"])
def test_other_urls_are_no_places(place):
    with pytest.raises(UsageError, match=r"not on this machine.*s3://BUCKET/KEY, as text"):
        check_place(place)


def test_a_nul_is_refused():
    with pytest.raises(UsageError, match=r"the path 'a\\x00b' holds a NUL"):
        aq.ingest("a\0b", "a.zarr")


@pytest.mark.parametrize("option", ["--model", "--name"])
def test_an_empty_text_is_no_value(option, archive, model, tmp_path):
    arguments = {"--model": str(model), "--out": str(tmp_path / "m"), option: ""}
    words = [word for pair in arguments.items() for word in pair]
    result = CliRunner().invoke(aqdask, ["calibrate", str(archive), *words])
    assert result.exit_code == 2
    assert "empty text" in result.stderr


# --- what is no regular file ---------------------------------------------------------------------------

# the exit code, and the command
BLOCKING = """\
3 score ARCHIVE --model FIFO
3 info FIFO
2 ingest @FIFO a.zarr
2 train ARCHIVE --out m --frames @FIFO
2 ingest NIGHT a.zarr --bad-pixel-map FIFO
2 ingest NIGHT a.zarr --cluster slurm:FIFO
3 ingest NIGHT FIFO
3 select ARCHIVE --out FIFO
3 calibrate ARCHIVE --model FIFO --out m
2 train ARCHIVE --out FIFO
3 verify FIFO""".splitlines()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("line", BLOCKING)
def test_nothing_waits_for_a_pipe(line, night, archive, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("FIFO")
    for word, value in {"NIGHT": night, "ARCHIVE": archive, "MODEL": model}.items():
        line = line.replace(word, str(value))
    code, *words = line.split()
    cluster = [] if "--cluster" in line else executed(words[0])
    result = CliRunner().invoke(aqdask, [*words, *cluster, "--quiet"])
    assert result.exit_code == int(code), result.output
    (paragraph,) = result.stderr.splitlines()
    assert "FIFO" in paragraph


def test_the_kind_of_file_is_named(tmp_path):
    with pytest.raises(OSError, match="it is a folder"):
        read_regular(tmp_path)
    with pytest.raises(OSError, match="it is a device"):
        read_regular("/dev/zero")
    with pytest.raises(ModelError, match="it is a device, not a regular file"):
        aq.load_model("/dev/null")


def test_a_pipe_with_a_reader_gets_its_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "é\n")
    assert os.read(reader, 99).decode() == "é\n"
    os.close(reader)


# --- lists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", [""]),
        (b"\xef\xbb\xbfa.fits\r\nb.fits\r\n", ["a.fits", "b.fits", ""]),
        (b"a\rb", ["a", "b"]),
        ("a\u2028b\x0c\x85c\n".encode(), ["a\u2028b\x0c\x85c", ""]),
        (b"M31_\xe9.fits", ["M31_\udce9.fits"]),
    ],
)
def test_lines_of_a_list(content, lines, tmp_path):
    (tmp_path / "l.txt").write_bytes(content)
    assert read_list(str(tmp_path / "l.txt")) == lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a.fits\nb.fits\n".encode("utf-16"), "is UTF-16 text"),
        ("a.fits\nb.fits\n".encode("utf-16-be"), "is UTF-16 text"),
        ("a.fits\nb.fits\n".encode("utf-32"), "is UTF-32 text"),
        (b"a.fits\nb\0.fits\n", "holds a NUL character in line 2"),
        (b"a.fits\n\ngs://b/a.fits\n", "names gs://b/a.fits in line 3"),
    ],
)
@pytest.mark.parametrize("command", ["ingest @LIST a.zarr", "train ARCHIVE --out m --frames @LIST"])
def test_a_list_that_cannot_be_meant(content, words, command, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("LIST").write_bytes(content)
    line = command.replace("ARCHIVE", str(archive)).split()
    result = CliRunner().invoke(aqdask, [*line, "--cluster", "serial"])
    assert result.exit_code == 2
    (paragraph,) = result.stderr.splitlines()
    assert words in paragraph


@pytest.mark.parametrize(
    "words",
    [
        "report ARCHIVE --out a/b/x.html --panels 0",
        "select ARCHIVE --out a/b/x.txt",
        "mask ARCHIVE --out a/b/x.zarr",
        "export ARCHIVE a/b/x --table",
    ],
)
def test_missing_folders_of_what_is_written_are_made(words, archive, tmp_path):
    words = words.replace("ARCHIVE", str(archive)).replace("a/b", f"{tmp_path}/a/b")
    result = CliRunner().invoke(aqdask, [*words.split(), "--quiet"])
    assert "could not be written" not in result.output
    assert [path.stem for path in (tmp_path / "a" / "b").iterdir()] == ["x"]


def test_a_folder_that_cannot_be_made_is_told(archive, tmp_path):
    (tmp_path / "a").write_text("a file")
    result = CliRunner().invoke(aqdask, ["select", str(archive), "--out", f"{tmp_path}/a/b/x.txt"])
    assert "could not be written" in result.output
    assert "Traceback" not in result.output
