"""Versions of the packages that determine results, compared between this process and the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache


def _reader() -> Callable[[], dict[str, str]]:
    """Make a function that returns the versions of the process it runs in.

    The function is nested, so that it is pickled by value: workers without aqdask can run it, too.
    """

    def read() -> dict[str, str]:
        import hashlib
        import importlib
        import importlib.metadata
        import pathlib
        import sys

        found = {}
        for name in ("aqdask", "numpy", "torch"):
            try:
                if name == "torch" and name not in sys.modules:  # seconds to import
                    version = importlib.metadata.version(name)
                else:
                    version = str(importlib.import_module(name).__version__)
            except ImportError:  # PackageNotFoundError is one
                version = "missing"
            if name == "aqdask" and ".dev" in version:  # one name for many states of the source
                folder = pathlib.Path(str(sys.modules[name].__file__)).parent
                digest = hashlib.sha256()
                for path in sorted(folder.rglob("*.py")):
                    digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
                version += f"+{digest.hexdigest()[:8]}"
            # builds of one version for CPU and GPU count as one
            found[name] = version if name == "aqdask" else version.partition("+")[0]
        return found

    return read


read_versions = _reader()


@cache
def versions() -> dict[str, str]:
    """Return the versions of aqdask, numpy and torch in this process."""
    return read_versions()


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Describe how the versions of a worker differ from those of this process; empty where they agree."""
    return ", ".join(
        f"{n} {there.get(n, 'missing')} (here {v})" for n, v in here.items() if there.get(n) != v
    )
