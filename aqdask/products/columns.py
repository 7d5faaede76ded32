"""Columns of Arrow tables with their descriptions."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa


def described(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    """Column of a table with its description and unit."""
    return pa.field(name, kind, metadata={"description": description} | ({"unit": unit} if unit else {}))


def described_schema(columns: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    """Schema of columns that are given by type and description."""
    return pa.schema([described(name, *column) for name, column in columns.items()])
