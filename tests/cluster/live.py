"""A command as a process, and its live page while it runs."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def fetched(url: str) -> str:
    """Get a page as text."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def watched(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the address of the page again and again while a command runs."""
    for line in process.stderr or ():
        if line.startswith("dashboard: "):
            break
    address = line.removeprefix("dashboard: ").strip()
    while process.poll() is None:
        yield address
        time.sleep(0.2)


def started(arguments: list[str]) -> subprocess.Popen[str]:
    """Start `aqdask`."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("aqdask"), *arguments], text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
