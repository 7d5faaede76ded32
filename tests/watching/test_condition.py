"""Conditions: what they mean, and that nothing but comparisons is accepted."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aqdask.errors import UsageError
from aqdask.watching.condition import parse_condition

COLUMNS = {
    "masked_fraction": pa.float64(), "frame_flag": pa.int64(), "filter": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
}  # fmt: skip
ROW = {
    "masked_fraction": 0.25, "frame_flag": 1, "filter": "V",
    "time": datetime(2024, 5, 7, 1, 10, tzinfo=UTC),
}  # fmt: skip

numbers = st.one_of(st.integers(-5, 5), st.floats(-2, 2, allow_nan=False)).map(repr)
operands = st.one_of(numbers, st.sampled_from(["masked_fraction", "frame_flag"]))
texts = st.sampled_from(["filter", "'V'", "'R'", "''"])
operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
comparisons = st.one_of(
    st.tuples(operands, operators, operands).map(" ".join),
    st.tuples(operands, operators, operands, operators, operands).map(" ".join),
    st.tuples(texts, operators, texts).map(" ".join),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
)


@given(conditions)
def test_a_condition_means_what_python_says(text):
    expected = eval(text, {"__builtins__": {}}, dict(ROW))
    assert parse_condition(text, COLUMNS)(ROW) is bool(expected)


@given(
    conditions,
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from("()[].=_'\"+*\\\n x1:@{}")), max_size=3),
)
def test_a_damaged_condition_is_refused_or_still_a_condition(text, changes):
    for place, character in changes:
        text = text[:place] + character + text[place:]
    with contextlib.suppress(UsageError):
        assert parse_condition(text, COLUMNS)(ROW) in (True, False)


@given(st.text())
@example("(" * 500 + "1" + ")" * 500)
@example("not " * 400 + "1 < 2")
@example("-" * 900 + "1 < 2")
@example("1 < 2\0")
@example("9" * 1999 + " < 1")
@example("x" * 2001)
def test_any_text_gives_a_condition_or_a_usage_error_and_nothing_else(text):
    with contextlib.suppress(UsageError):
        parse_condition(text, COLUMNS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be parsed"),
        ("masked_fraction", "is no comparison"),
        ("masked_fraction >", "cannot be parsed"),
        ("masked > 0.3", "'masked' is no column of the frame table"),
        ("masked_fraction > '0.3'", "is compared with a float"),
        ("filter == 3", "is compared with a str"),
        ("time > 2024", "is compared with a str"),
        ("__import__('os').system('touch x') == 0", "is neither a column"),
        ("filter.__class__ == 'V'", "is neither a column"),
        ("masked_fraction + 1 > 2", "is neither a column"),
        ("filter[0] == 'V'", "is neither a column"),
        ("(x := 3) > 2", "is neither a column"),
        ("[1 for i in 'a'] == 1", "is neither a column"),
        ("(lambda: 1)() == 1", "is neither a column"),
        ("f'{filter}' == 'V'", "is neither a column"),
        ("True == 1", "is neither a column"),
        ("-True == 1", "is neither a column"),
        ("-'a' == 1", "is no number"),
        ("1j == 1", "is neither a column"),
        ("filter in ('V', 'R')", "is neither a column"),
        ("filter in 'VR'", "has an operator that is not allowed"),
        ("filter is 'V'", "has an operator that is not allowed"),
        ("await filter == 'V'", "is neither a column"),
        ("masked_fraction > 0.3; import os", "cannot be parsed"),
        ("masked_fraction > 0.3 if 1 else 2", "is no comparison"),
    ],
)
def test_anything_but_a_comparison_is_refused_by_name(text, why):
    with pytest.raises(UsageError, match="the condition") as found:
        parse_condition(text, COLUMNS)
    assert why in str(found.value)


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("text", ["masked_fraction > 0", "masked_fraction <= 0", "masked_fraction != 0"])
def test_a_comparison_with_a_missing_value_is_false(text, missing):
    assert parse_condition(text, COLUMNS)(ROW | {"masked_fraction": missing}) is False
    assert parse_condition(f"not ({text})", COLUMNS)(ROW | {"masked_fraction": missing}) is True


def test_a_column_that_a_row_lacks_is_missing():
    assert parse_condition("frame_flag == 1", COLUMNS)({}) is False


def test_times_are_compared_as_text():
    assert parse_condition("'2024-05-07T01:00' < time < '2024-05-07T01:20'", COLUMNS)(ROW) is True
    assert parse_condition("time < '2024-05-07'", COLUMNS)(ROW) is False
