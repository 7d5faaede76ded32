"""Commands and Python of the pages, for the tests that parse and run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("aqdask", "benchmarks", "cluster", "docs")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
PAGES = [page for page in PAGES if "_build" not in page.parts]
FENCED = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (?=\S).*$", re.MULTILINE)
INLINE = re.compile(r"`(aqdask [^`]+)`")
ENDS = ("|", "||", "&&", ">", "...")  # of a command, for its shell or its reader


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """Words after ``aqdask`` of each command in a block of a page, comments and pipes left out."""
    blocks = [body for _, body in FENCED.findall(page.read_text(encoding="utf-8"))]
    lines = "\n".join([*blocks, *INDENTED.findall(prose(page))]).replace("\\\n", " ").splitlines()
    return [_words(line) for line in lines if re.match(r"\s*([A-Z_]+=\S+ )*aqdask\s", line)]


def mentions(page: Path) -> list[list[str]]:
    """Words after ``aqdask`` of each command, or beginning of one, in the prose of a page."""
    return [_words(text) for text in INLINE.findall(prose(page).replace("\n", " "))]


def python_of(page: Path) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(
        body for info, body in FENCED.findall(page.read_text(encoding="utf-8")) if info == "python"
    )


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    words = words[words.index("aqdask") + 1 :]
    return words[: next((place for place, word in enumerate(words) if word in ENDS), None)]
