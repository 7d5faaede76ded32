"""Conditions over the columns of the frame table, such as ``masked_fraction > 0.3 and filter == 'V'``.

A condition is parsed by `ast` and turned into functions of this module: nothing in it is executed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from aqdask.errors import UsageError

Row = Mapping[str, Any]
LONGEST = 2000  # characters
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


def parse_condition(text: str, columns: Mapping[str, pa.DataType]) -> Callable[[Row], bool]:
    """Return the test of a row of the frame table that a condition describes.

    Parameters
    ----------
    text : str
        Comparisons (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, also chained) between columns, numbers and
        quoted texts, joined by ``and``, ``or``, ``not`` and parentheses. Times are texts, as in
        ``'2024-05-07T01:10'``.
    columns : mapping of str to DataType
        Columns of the table.

    Returns
    -------
    callable
        Takes a row and returns True or False. A comparison with a missing value or NaN is False.

    Raises
    ------
    UsageError
        For anything else, an unknown column, or a comparison of a number with a text.
    """
    if len(text) > LONGEST:
        raise _refused(text[:80] + "...", f"it has more than {LONGEST} characters", columns)
    try:
        return _Reader(text, columns).test(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise _refused(text, f"it cannot be parsed ({error.args[0]})", columns) from error
    except (RecursionError, MemoryError) as error:
        raise _refused(text, "it is nested too deeply", columns) from error


class _Reader:
    """Reader of one condition."""

    def __init__(self, text: str, columns: Mapping[str, pa.DataType]) -> None:
        self.text, self.columns = text, columns

    def test(self, node: ast.expr) -> Callable[[Row], bool]:
        """Return the function of a truth value."""
        if isinstance(node, ast.BoolOp):
            tests = [self.test(part) for part in node.values]
            combine = all if isinstance(node.op, ast.And) else any
            return lambda row: combine(test(row) for test in tests)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.test(node.operand)
            return lambda row: not inner(row)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        raise self._error(node, "is no comparison")

    def _comparison(self, node: ast.Compare) -> Callable[[Row], bool]:
        sides = [self._value(side) for side in (node.left, *node.comparators)]
        for side, (kind, _) in zip(node.comparators, sides[1:], strict=True):
            if kind is not sides[0][0]:
                raise self._error(side, f"is compared with a {sides[0][0].__name__}")
        for op in node.ops:
            if type(op) not in COMPARISONS:
                raise self._error(node, "has an operator that is not allowed")
        steps = [
            (COMPARISONS[type(op)], left, right)
            for op, (_, left), (_, right) in zip(node.ops, sides[:-1], sides[1:], strict=True)
        ]

        def compare(row: Row) -> bool:
            for compares, left, right in steps:
                one, other = left(row), right(row)
                # NaN is the only value that differs from itself
                if one is None or other is None or one != one or other != other:
                    return False
                if not compares(one, other):
                    return False
            return True

        return compare

    def _value(self, node: ast.expr) -> tuple[type, Callable[[Row], Any]]:
        """Return the type of an operand, `float` or `str`, and the function of its value."""
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1 if isinstance(node.op, ast.USub) else 1
            node = node.operand
            if not isinstance(node, ast.Constant) or isinstance(node.value, str):
                raise self._error(node, "is no number")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            return str, lambda row: text
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            number = sign * float(node.value)  # type: ignore[arg-type]
            return float, lambda row: number
        if isinstance(node, ast.Name):
            if node.id not in self.columns:
                raise self._error(node, "is no column of the frame table")
            name, kind = node.id, self.columns[node.id]
            is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
            return (float if is_number else str), lambda row: _comparable(row.get(name))
        raise self._error(node, "is neither a column, nor a number or a quoted text")

    def _error(self, node: ast.AST, what: str) -> UsageError:
        part = ast.get_source_segment(self.text.strip(), node) or self.text
        return _refused(self.text, f"{part!r} {what}", self.columns)


def _comparable(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%S") if isinstance(value, datetime) else value


def _refused(text: str, why: str, columns: Mapping[str, pa.DataType]) -> UsageError:
    return UsageError(
        f"the condition {text!r}: {why}",
        expected="comparisons of columns, numbers and quoted texts, joined by and, or, not; "
        f"the columns are {', '.join(columns)}",
        consequence="Nothing was started",
        remedy='for example "masked_fraction > 0.3"',
    )
