"""Columns of Arrow tables with their descriptions and units.

Missing values are null in every table, never NaN. Units are those of `astropy.units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc


def described(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    """Column of a table with its description and its unit, as `astropy.units` reads it."""
    return pa.field(name, kind, metadata={"description": description} | ({"unit": unit} if unit else {}))


def described_schema(
    columns: Mapping[str, tuple[pa.DataType, str]], units: Mapping[str, str] = MappingProxyType({})
) -> pa.Schema:
    """Schema of columns that are given by type and description, with the units of some."""
    return pa.schema([described(name, *about, units.get(name, "")) for name, about in columns.items()])


def nulls_for_nan(table: pa.Table) -> pa.Table:
    """Replace NaN by null, by which all tables say that a value is missing."""
    for place, (name, kind) in enumerate(zip(table.schema.names, table.schema.types, strict=True)):
        if pa.types.is_floating(kind):
            column = table[name]
            known = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
            table = table.set_column(place, table.schema.field(place), known)
    return table
