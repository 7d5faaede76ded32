"""Files as streams: read once, changed while read, pipes and descriptors."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from astropy.io import fits
from fits_files import (
    ALL,
    FIRST,
    IMAGE,
    write,
    write_text,
)

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io.reader import probe, read_frame
from aqdask.io.streams import load_file


class TestOneReading:
    def test_header_and_pixels_are_of_the_same_bytes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE, fits.Header([("EXPTIME", 5.0)])))
        frame = read_frame(path, 0, FIRST)
        assert (frame.info,) == probe(path, FIRST)
        assert (frame.size, frame.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)

    def test_suffix(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), *(fits.ImageHDU(IMAGE, name=n) for n in "AB"))
        assert [read_frame(path, hdu, ALL).info for hdu in (1, 2)] == list(probe(path, ALL))

    def test_an_image_that_is_no_longer_taken(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(IMAGE))
        (info,) = probe(path, FIRST)
        write(path, fits.PrimaryHDU(IMAGE))
        with pytest.raises(FrameError, match="HDU 1 is no longer one of the images"):
            read_frame(path, info.hdu, FIRST)

    @pytest.mark.parametrize("change", ["grown", "cut", "touched"])
    def test_a_file_that_changes_while_it_is_read(self, tmp_path: Path, monkeypatch, change: str) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE))
        from aqdask.io import streams

        real = streams.FileStream.read

        def read(self, *args):
            monkeypatch.undo()
            if change == "touched":
                found = real(self, *args)
                os.utime(path, ns=(1, 1))
                return found
            os.truncate(path, path.stat().st_size + (5 if change == "grown" else -5))
            return real(self, *args)

        for use in (lambda: load_file(path), lambda: read_frame(path, 0, FIRST), lambda: probe(path, FIRST)):
            monkeypatch.setattr(streams.FileStream, "read", read)
            with pytest.raises(SourceUnreachable, match="changed while it was read") as caught:
                use()
            assert caught.value.number == errno.EAGAIN
            write(path, fits.PrimaryHDU(IMAGE))

    def test_a_named_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.fits")
        os.mknod(tmp_path / "socket.fits", stat.S_IFSOCK | 0o600)
        for name in ("pipe.fits", "socket.fits"):
            for use in (lambda path: probe(path, FIRST), load_file):
                with pytest.raises(FrameError, match="not a regular file") as caught:
                    use(tmp_path / name)
                assert not isinstance(caught.value, SourceUnreachable)

    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for name in ("", "gone.fits", "a.fits"):
            with pytest.raises(FrameError):
                load_file(tmp_path / name) if name != "a.fits" else probe(write_text(tmp_path / name), FIRST)
        assert len(os.listdir("/proc/self/fd")) == before
