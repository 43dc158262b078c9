"""Fields that a record's class does not have, as a neighbour of a newer wire version sends them: found, and left out.

Records are strict (`codec.Record`); this runs only when one was refused for an unknown field. It is a plain walk over
the parsed JSON along the record's types, compiled once a class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

Found: TypeAlias = set[tuple[type[msgspec.Struct], str]]
"""Record class and field name of each unknown field."""

Walk: TypeAlias = Callable[[Any, Found], Any]


def without_unknown(kind: type[msgspec.Struct], value: Any) -> tuple[Any, Found]:
    """``value`` (parsed JSON) without the fields that ``kind`` and the records inside it do not have, and which those
    were. What has the wrong shape stays as it is, for the check that follows."""
    found: Found = set()
    return record_walk(kind)(value, found), found


@cache
def record_walk(kind: type[msgspec.Struct]) -> Walk:
    """The walk over one record class; ``kind`` may contain itself."""
    fields: dict[str, Walk | None] = {}
    is_compiled = False

    def walk(value: Any, found: Found) -> Any:
        nonlocal is_compiled
        if not is_compiled:
            info = inspect.type_info(kind)
            if isinstance(info, inspect.StructType):
                fields.update({field.encode_name: _walk_of(field.type) for field in info.fields})
            is_compiled = True
        if not isinstance(value, dict):
            return value
        kept = {}
        for name, inner in value.items():
            if name not in fields:
                found.add((kind, name))
                continue
            below = fields[name]
            kept[name] = inner if below is None else below(inner, found)
        return kept

    return walk


def _walk_of(info: inspect.Type) -> Walk | None:
    """The walk over values of a type; ``None`` when no record is inside."""
    if isinstance(info, inspect.StructType):
        return record_walk(info.cls)
    if isinstance(info, inspect.Metadata):
        return _walk_of(info.type)
    if isinstance(info, inspect.UnionType):
        walks = [walk for walk in map(_walk_of, info.types) if walk is not None]
        return walks[0] if walks else None
    if isinstance(info, inspect.DictType):
        return _over_values(_walk_of(info.value_type))
    if isinstance(info, inspect.ListType | inspect.VarTupleType):
        return _over_items(_walk_of(info.item_type))
    return None


def _over_items(each: Walk | None) -> Walk | None:
    if each is None:
        return None
    return lambda value, found: [each(item, found) for item in value] if isinstance(value, list) else value


def _over_values(each: Walk | None) -> Walk | None:
    if each is None:
        return None

    def walk(value: Any, found: Found) -> Any:
        return {name: each(item, found) for name, item in value.items()} if isinstance(value, dict) else value

    return walk
