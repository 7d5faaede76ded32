"""Settings of Sphinx for `make docs`; nothing is fetched from the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_cache.executors import utils as notebooks
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, whatever aqdask is installed

from aqdask.version import __version__  # noqa: E402

project = "aqdask"
author = "The aqdask developers"
project_copyright = "The aqdask developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = f"aqdask {release}"
html_theme_options = {"navigation_with_keys": False, "show_prev_next": False}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["notes.css"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# Notebooks are text without outputs; all of them are executed, each in an empty folder, and an error fails
# the build. Their commands run in one process, with the Python and the checkout of the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# Output of commands arrives in pieces of 100 bytes, which belong together.
notebooks.executenb = partial(notebooks.executenb, coalesce_streams=True)
# A command that fails ends its cell, as the last one does without this.
IPYTHON = ROOT / "docs/_build/ipython"
(IPYTHON / "profile_default").mkdir(parents=True, exist_ok=True)
(IPYTHON / "profile_default/ipython_config.py").write_text('c.ScriptMagics.script_paths = {"sh": "sh -e"}\n')
os.environ |= {
    "IPYTHONDIR": str(IPYTHON),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "DASK_AQDASK__CLUSTER": "serial",
}

# Real frames are no part of the repository: without them their tutorial is shown, but not executed.
FRAMES = Path(os.environ.get("AQDASK_TEST_DATA", ROOT.parent / "shared/data")).absolute()
os.environ["AQDASK_TEST_DATA"] = str(FRAMES)
if not FRAMES.is_dir():
    nb_execution_excludepatterns = ["tutorials/real-frames*"]


# Pages that begin with this cell show it, and get a copy of what one execution of it wrote.
NIGHT = """\
aqdask simulate night --frames 9 --size 512
aqdask run night/ night.zarr --model wide-field --products products
"""
NIGHT_CELL = f"```{{code-cell}}\n:tags: [remove-output]\n%%sh\n{NIGHT}```\n"
NIGHT_FOLDER = ROOT / "docs/_build/night"


def simulate_night(app: Any) -> None:
    shutil.rmtree(NIGHT_FOLDER, ignore_errors=True)
    NIGHT_FOLDER.mkdir(parents=True)
    done = subprocess.run(["sh", "-e", "-c", NIGHT], cwd=NIGHT_FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise ExtensionError(f"the night of the pages: {done.stderr}")


def copy_night(app: Any, docname: str, content: list[str]) -> None:
    copied = f"```{{code-cell}}\n:tags: [remove-cell]\n%%sh\ncp -r {NIGHT_FOLDER}/* .\n```\n"
    content[0] = content[0].replace(NIGHT_CELL, f"```sh\n{NIGHT}```\n\n{copied}")


def tell_if_executed(app: Any) -> None:
    """Set the tag that shows, or hides, the word that a page was not executed."""
    if not FRAMES.is_dir():
        app.tags.add("without_frames")


autodoc_typehints = "none"  # the docstrings state types, with shapes and units
autosummary_generate = False
napoleon_google_docstring = False
napoleon_use_rtype = False
default_role = "code"  # single backquotes in docstrings name code, as in numpy

# Files outside docs/ that a page here includes: links to them, which GitHub follows, lead to that page.
INCLUDED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "aqdask/methods/data/wide-field.md": "model-card.md",
    "aqdask/store/LAYOUT.md": "layout.md",
    "benchmarks/README.md": "benchmarks.md",
    "cluster/README.md": "guide/clusters.md",
}

# A page for each result of a benchmark, however many there are; not in git.
RESULTS = sorted(path.name for path in ROOT.glob("benchmarks/results/*.md"))
INCLUDED |= {f"benchmarks/results/{name}": f"results/{name}" for name in RESULTS}
PAGES = ROOT / "docs/results"
PAGES.mkdir(exist_ok=True)
for page in PAGES.glob("*.md"):
    if page.name not in RESULTS:
        page.unlink()
for name in RESULTS:
    text = f"```{{include}} ../../benchmarks/results/{name}\n```\n"
    if not (PAGES / name).exists() or (PAGES / name).read_text() != text:
        (PAGES / name).write_text(text)

_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)")


def relink(text: str, folder: Path, page: Path) -> str:
    """Make the relative links of a text in ``folder`` hold on a page of the documentation."""

    def target(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link[1]))
        inside = path.relative_to(ROOT).as_posix()
        if inside in INCLUDED:
            return f"](/{INCLUDED[inside]}"
        if inside.startswith("docs/"):
            return f"](/{inside.removeprefix('docs/')}"
        return f"]({os.path.relpath(path, page)}"

    return _LINK.sub(target, text)


def relink_page(app: Any, docname: str, content: list[str]) -> None:
    folder = Path(app.srcdir, docname).parent
    content[0] = relink(content[0], folder, folder)


def relink_included(app: Any, path: Path, parent: str, content: list[str]) -> None:
    # Not `parent`: myst-parser 5.2 gives the page's name without its folder.
    page = Path(app.srcdir, app.env.current_document.docname).parent
    content[0] = relink(content[0], Path(app.srcdir, path).resolve().parent, page)


def setup(app: Any) -> None:
    app.connect("builder-inited", tell_if_executed)
    app.connect("builder-inited", simulate_night)
    app.connect("source-read", relink_page)
    app.connect("source-read", copy_night)
    app.connect("include-read", relink_included)
