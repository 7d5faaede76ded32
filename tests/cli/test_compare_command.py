"""Command `compare`: text, JSON and usage errors."""

from __future__ import annotations

import pytest
from night import tiny_bundle
from test_cli import call, objects

import aqdask as aq


@pytest.fixture
def two_models(archive):
    """Archive scored by two models."""
    aq.score(archive, tiny_bundle("other", seed=5), cluster="serial")
    return archive


def test_two_models_are_compared_and_json_says_the_same(two_models):
    arguments = ("compare", two_models, "--model", "tiny", "--model", "other", "--alpha", 0.5)
    told = call(*arguments)
    assert told.exit_code == 0
    assert "reasons of changes" in told.stdout
    entries = objects(call(*arguments, "--json", "--frames", 2))
    (facts,) = (entry for entry in entries if entry["event"] == "compare")
    found = aq.compare(aq.open_quality(two_models, "tiny"), aq.open_quality(two_models, "other"), 0.5)
    assert {name: facts[name] for name in found.facts()} == found.facts()
    assert f"only b             {found.only_b}" in told.stdout
    frames = [e for e in entries if e.get("table", "").startswith("frames")]
    assert 1 <= len(frames) <= 2
    assert frames[0]["frame"] == str(found.by_frame["frame_id"].values[0])
    assert (frames[0]["gained"], frames[0]["lost"]) == (
        int(found.by_frame["gained"][0]),
        int(found.by_frame["lost"][0]),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no --model. Expected: two different models"),
        (("--model", "tiny"), "--model tiny. Expected: two different models"),
        (("--model", "tiny", "--model", "tiny"), "--model tiny --model tiny. Expected: two different models"),
        (("--model", "tiny", "--model", "none"), "holds no quality groups for 'none'"),
        (("--model", "tiny", "--model", "tiny", "--alpha", "2"), "alpha = 2.0"),
    ],
)
def test_2_where_there_are_not_two_models(archive, arguments, message):
    result = call("compare", archive, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
