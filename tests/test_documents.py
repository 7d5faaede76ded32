"""The documents: links lead somewhere, no file is cited that is not there, and pages keep their size."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, name_of

import aqdask

MAKER = ROOT / "docs/pictures/make_pictures.py"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# A path in backquotes that names a file of the repository, by its first folder and its suffix.
CITED = re.compile(r"`((?:aqdask|benchmarks|cluster|docs|tests)/[\w./-]*\.(?:py|md|sh|yaml|png|sbatch))`")
INCLUDE = re.compile(r"^```\{include\} (\S+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_cited_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    prose = FENCED.sub("", text)
    missing = [
        link for link in LINK.findall(prose) if not Path(os.path.normpath(page.parent / link)).exists()
    ]
    missing += [path for path in CITED.findall(prose) if not (ROOT / path).exists()]
    missing += [path for path in INCLUDE.findall(text) if not (page.parent / path).exists()]
    assert not missing


def test_documents_that_python_code_cites_are_there():
    """Names in capitals, and paths; lower-case names without a folder are files that a program writes."""
    cited = re.compile(r"\b(?:[\w-]+/)+[\w-]+\.md\b|\b[A-Z]+\.md\b")
    missing = [
        f"{name_of(module)}: {document}"
        for folder in ("aqdask", "benchmarks")
        for module in (ROOT / folder).rglob("*.py")
        for document in cited.findall(module.read_text(encoding="utf-8"))
        if not any((place / document).exists() for place in (ROOT, module.parent, ROOT / "benchmarks"))
    ]
    assert not missing


def test_pages_keep_their_size():
    assert len((ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()) < 80
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 400


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in aqdask.__all__ if name != "__version__")


def test_notebooks_are_stored_without_results():
    """The build makes their results; pictures of real frames may be under another licence."""
    docs = ROOT / "docs"
    stored = [path for path in docs.rglob("*.*") if path.relative_to(docs).parts[0] != "_build"]
    assert not [path for path in stored if path.suffix == ".ipynb"]
    pictures = {path.name for path in stored if path.suffix == ".png"}
    assert pictures == set(re.findall(r"\"(\w+\.png)\"", MAKER.read_text(encoding="utf-8")))
