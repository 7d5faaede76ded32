"""No code from files, no path outside the output folder, no control character on the terminal."""

from __future__ import annotations

import ast
import os
import pickle
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from click.testing import CliRunner

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.text import printable

sys.path.append(str(Path(__file__).parent / "execution"))

from night import executed, tiny_bundle

PACKAGE = Path(aq.__file__).parent
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load"}


def call(*arguments: object):
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0])])


def test_nothing_is_unpickled_or_evaluated():
    found = []
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                names = [name for name in imported if name.partition(".")[0] in UNSAFE_MODULES]
            elif isinstance(node, ast.Call):
                names = [name for name in [ast.unparse(node.func)] if name in UNSAFE_CALLS]
                names += ["allow_pickle" for word in node.keywords if word.arg == "allow_pickle"]
            found += [f"{module.name}: {name}" for name in names]
    assert not found


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_neither_a_model_nor_a_frame(tmp_path):
    mark, night = tmp_path / "executed", tmp_path / "night"
    night.mkdir()
    fits.PrimaryHDU(np.arange(64 * 64, dtype="i2").reshape(64, 64)).writeto(night / "a.fits")
    evil = pickle.dumps(Payload(mark))
    for name in ("m.safetensors", "m.pt", "night/b.fits"):
        (tmp_path / name).write_bytes(evil)
    assert call("ingest", night, tmp_path / "a.zarr").exit_code == 1  # b.fits is quarantined
    for name in ("m.safetensors", "m.pt"):
        result = call("score", tmp_path / "a.zarr", "--model", tmp_path / name)
        assert result.exit_code in (2, 3), result.output
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists()  # the payload works


def test_names_in_headers_leave_no_folder_and_reach_no_terminal(tmp_path):
    """EXTNAME and keywords with parent folders and terminal sequences, through every command."""
    night, archive, out = tmp_path / "night", tmp_path / "a.zarr", tmp_path / "deep" / "er" / "out"
    night.mkdir()
    rng = np.random.default_rng(1)
    names = ("../../escape", "/etc/escape", "x" * 40)
    hdus = [fits.ImageHDU(rng.normal(1000, 30, (64, 64)).astype("i2"), name=name) for name in names]
    for hdu in hdus:
        hdu.header["FILTER"] = "@" * 8
        hdu.header["INSTRUME"] = "#" * 8
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(night / "a.fits")
    raw = (night / "a.fits").read_bytes()
    for plain, evil in (
        (b"x" * 20, b"\x1b]0;owned\x07\x1b[31m" + b"x" * 5),
        (b"@" * 8, b"\x1b[2Jred\r"),
        (b"#" * 8, b"../../\x1b["),
    ):
        assert len(plain) == len(evil)
        raw = raw.replace(plain, evil)
    (night / "a.fits").write_bytes(raw)
    model = tmp_path / "m.safetensors"
    tiny_bundle().save(model)
    results = [
        call("ingest", night, archive, "--hdu", "all"),
        call("score", archive, "--model", model),
        call("info", archive, "--frames"),
        call("export", archive, out, "--alpha", 0.2),
        call("verify", archive),
    ]
    for result in results:
        assert result.exit_code == 0, result.output
        assert all(printable(line) == line for line in (result.stdout + result.stderr).split("\n"))
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert made == {"night", "a.zarr", "m.safetensors", "deep"}
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {"out"}
    assert len([path for path in out.rglob("*.fits*") if path.is_file()]) == 3
    assert not list(Path("/etc").glob("escape*"))
