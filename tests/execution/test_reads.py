"""Work that is done once: headers per stored chunk, checksums and masks per frame, a model per process."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import aqdask as aq
from aqdask.execution import model_cache, tasks
from aqdask.methods.bundle import Bundle
from aqdask.store.frame_store import FrameStore

HEADERS = {"header", "primary_header"}


@pytest.fixture
def header_reads(monkeypatch):
    """Names of the header coordinates in the order in which they are read."""
    read, real = [], FrameStore.coordinate

    def coordinate(self, name, rows=slice(None)):
        read.extend({name} & HEADERS)
        return real(self, name, rows)

    monkeypatch.setattr(FrameStore, "coordinate", coordinate)
    return read


def test_score_decodes_each_chunk_of_headers_once(ingested, bundle, header_reads):
    archive = ingested()
    header_reads.clear()
    aq.score(archive, bundle, cluster="serial")
    assert Counter(header_reads) == dict.fromkeys(HEADERS, 1)  # of ten frames in shards of four


def test_export_decodes_each_chunk_of_headers_once(undisturbed, tmp_path, header_reads):
    aq.export(undisturbed, tmp_path / "out", cluster="serial")
    assert Counter(header_reads) == dict.fromkeys(HEADERS, 1)  # of several tasks


def test_an_export_of_no_masks_reads_no_header(undisturbed, tmp_path, header_reads):
    aq.export(undisturbed, tmp_path / "out", cluster="serial", dq=False)
    assert header_reads == []


def test_select_reads_no_header_to_measure_a_frame(undisturbed, header_reads):
    aq.select(undisturbed, cluster="serial")
    assert Counter(header_reads) == dict.fromkeys(HEADERS, 1)  # the gain of all frames


def test_a_fused_run_computes_one_checksum_a_frame(night, bundle, tmp_path, monkeypatch):
    counted, real = [], tasks.checksum

    def checksum(*arrays):
        counted.append(arrays)
        return real(*arrays)

    monkeypatch.setattr(tasks, "checksum", checksum)
    aq.run(night, tmp_path / "a.zarr", bundle, cluster="serial", chunk=64)
    assert len(counted) == 10


def test_tiles_of_an_array_parse_the_model_once(bundle, monkeypatch):
    parsed, real = [], Bundle.from_bytes

    def from_bytes(data):
        parsed.append(data)
        return real(data)

    monkeypatch.setattr(model_cache, "_scorers", {})
    monkeypatch.setattr(Bundle, "from_bytes", staticmethod(from_bytes))
    image = np.random.default_rng(0).normal(1000, 30, (600, 600)).astype("float32")
    aq.quality_of(image, bundle).compute(scheduler="sync")
    assert len(parsed) <= 1
