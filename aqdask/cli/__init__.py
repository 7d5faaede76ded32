"""The command line: ``aqdask`` and ``dask aqdask`` are the same group."""

from aqdask.cli.main import aqdask, main

__all__ = ["aqdask", "main"]
