"""Command line, the same as ``aqdask`` and as ``dask aqdask``."""

from aqdask.cli.main import aqdask, main

__all__ = ["aqdask", "main"]
