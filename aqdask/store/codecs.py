"""Compression of stored pixels and maps: the table of codecs that an archive may be made with."""

from __future__ import annotations

CODECS: dict[str, tuple[str, int]] = {"lz4": ("lz4", 5), "zstd": ("zstd", 1)}
"""Compressor of Blosc and its level, by the name that an archive states; always with bitshuffle.

The first is the default of a new archive. Nothing else needs to change for another row.
"""
