"""Kinds of Dask clusters that ``--cluster`` can name; nothing is imported until one is connected to."""

from __future__ import annotations

import pkgutil
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aqdask.errors import UsageError

if TYPE_CHECKING:
    from aqdask.execution.executors import Executor


@dataclass(frozen=True)
class ClusterKind:
    """One kind of cluster.

    ``factory`` names, as ``module:function``, a context manager of an `Executor`, called with the text behind
    the colon. ``usage`` is that argument in the help, ``argument`` its regular expression, ``expected`` its
    description.
    """

    factory: str
    usage: str = ""
    argument: str = ""
    expected: str = "no argument"

    def connect(self, argument: str) -> AbstractContextManager[Executor]:
        """Start the cluster, or find it."""
        found: AbstractContextManager[Executor] = pkgutil.resolve_name(self.factory)(argument)
        return found


AUTO = "auto"
KINDS: dict[str, ClusterKind] = {
    AUTO: ClusterKind("aqdask.execution.clusters:auto"),
    "serial": ClusterKind("aqdask.execution.clusters:serial"),
    "local": ClusterKind(
        "aqdask.execution.clusters:local", "[:WORKERS]", "(0*[1-9][0-9]*)?", "a whole number above 0"
    ),
    "cuda": ClusterKind("aqdask.execution.clusters:cuda", "[:GPU]", ".*", "the number of a GPU"),
    "slurm": ClusterKind("aqdask.execution.clusters:slurm_jobs", "[:FILE]", ".*", "a YAML file"),
}
USAGE = ", ".join([*(name + kind.usage for name, kind in KINDS.items()), "or tcp://HOST:PORT"])


def check(cluster: str | None) -> None:
    """Raise `UsageError` unless a text names a cluster: one of `KINDS`, or the address of a scheduler."""
    name, _, argument = (cluster or "serial").partition(":")
    if name not in KINDS and "://" not in str(cluster):
        raise UsageError(
            f"--cluster {cluster}",
            expected=USAGE,
            consequence="Nothing was started",
            remedy="leave the option out for this machine; cluster/README.md compares the kinds",
        )
    if name in KINDS and not re.fullmatch(KINDS[name].argument, argument):
        raise UsageError(
            f"--cluster {cluster}",
            expected=f"{name}{KINDS[name].usage} with {KINDS[name].expected}",
            consequence="Nothing was started",
            remedy="leave the part behind the colon out for the default",
        )
