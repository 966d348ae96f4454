"""Leaves null fields out of a user's data, as the API server does: an empty ``tags:`` in a manifest means no tags."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from msgspec import inspect

_ANY = inspect.AnyType


def without_nulls(given: Any, kind: Any) -> Any:
    """The data without the null fields of the type ``kind``, at any depth. Where it allows any JSON, nulls stay."""
    return _without(given, _info(kind))


@functools.cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _without(given: Any, info: inspect.Type) -> Any:
    for one in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(given, Mapping) and isinstance(one, inspect.StructType | inspect.DictType):
            types = (
                {field.encode_name: field.type for field in one.fields} if isinstance(one, inspect.StructType) else {}
            )
            other = one.value_type if isinstance(one, inspect.DictType) else _ANY()
            found = ((name, value, types.get(name, other)) for name, value in given.items())
            return {
                name: _without(value, field)
                for name, value, field in found
                if value is not None or isinstance(field, _ANY)
            }
        if isinstance(given, list | tuple) and isinstance(one, inspect.ListType | inspect.VarTupleType):
            return [_without(value, one.item_type) for value in given]
    return given
