"""Precision of a quality group: bfloat16 beside float32, recorded, and kept on resume."""

import numpy as np
import pytest

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution.config import changed
from aqdask.simulate.demo import demo_plan, write_demo_frame

SEED, SIZE, FRAMES = 11, 512, 18
ALPHA = 0.01


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Good frames and frames with defects of the simulated camera."""
    folder = tmp_path_factory.mktemp("frames")
    return [write_demo_frame(folder, frame) for frame in demo_plan(FRAMES, SIZE, SEED)[-8:]]


def maps(archive, precision):
    with changed({"aqdask.precision": precision}):
        aq.score(archive, "wide-field", cluster="serial")
    quality = aq.open_quality(archive)
    return quality.attrs["precision"], quality[["score", "pvalue", "reason", "size_ratio"]].load()


def test_masks_of_bfloat16_agree_with_float32(drawn, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        aq.ingest(drawn, tmp_path / precision, cluster="serial")
        recorded, found[precision] = maps(tmp_path / precision, precision)
        assert recorded == precision
    masks = {name: aq.mask(quality, alpha=ALPHA).values for name, quality in found.items()}
    assert masks["fp32"].mean() > 0.1  # there is something to agree about
    assert (masks["fp32"] != masks["bf16"]).mean() < 0.01
    moved = np.abs(found["fp32"].pvalue - found["bf16"].pvalue)
    assert float(moved.median()) < 0.005
    assert not np.array_equal(found["fp32"].score, found["bf16"].score)  # it is another arithmetic
    assert aq.verify(tmp_path / "bf16", cluster="serial").sound


def test_frames_that_come_later_are_scored_in_the_precision_of_the_first(drawn, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    aq.ingest(drawn, whole, cluster="serial")
    wanted = maps(whole, "bf16")[1]
    aq.ingest(drawn[:4], parts, cluster="serial")
    maps(parts, "bf16")
    aq.ingest(drawn, parts, cluster="serial")
    with pytest.raises(UsageError, match=r"'fp32', but the maps of wide-field-.* are made in 'bf16'"):
        maps(parts, "fp32")
    recorded, found = maps(parts, "auto")
    assert recorded == "bf16"
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_precision_that_the_method_does_not_have_is_refused(drawn, tmp_path, bundle):
    aq.ingest(drawn[:1], tmp_path / "a", cluster="serial")
    with changed({"aqdask.precision": "fp8"}), pytest.raises(UsageError, match=r"'fp8'.*fp32, bf16"):
        aq.score(tmp_path / "a", "wide-field", cluster="serial")
    with changed({"aqdask.precision": "bf16"}), pytest.raises(UsageError, match="'paper' can use: fp32"):
        aq.score(tmp_path / "a", bundle, cluster="serial")
    aq.score(tmp_path / "a", bundle, cluster="serial")
    assert aq.open_quality(tmp_path / "a").attrs["precision"] == "fp32"


@pytest.mark.cluster
def test_workers_give_the_bytes_of_this_process(drawn, tmp_path):
    found = {}
    for cluster in ("serial", "local:2"):
        archive = tmp_path / cluster.replace(":", "-")
        aq.ingest(drawn, archive, cluster=cluster, frames_per_shard=2)
        aq.score(archive, "wide-field", cluster=cluster)
        shards = (path for path in archive.glob("quality/*/*/c/*/0/0"))
        found[cluster] = {path.relative_to(archive): path.read_bytes() for path in shards}
    assert found["serial"] == found["local:2"] != {}
