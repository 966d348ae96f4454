"""What is wrong with a user's data, in a sentence: which field, and what to write there.

msgspec says which field does not fit, in the words of Python's types. Users write YAML and JSON.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<place>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_BYTE = re.compile(r"\(byte (?P<byte>\d+)\)")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`(?P<bound>[^,]*), got `(?P<got>[^`]*)`")
_BOUND = re.compile(r"Expected `(?P<wanted>[^`]*)` (?P<bound>.*)")
_ENUM = re.compile(r"Invalid (?:enum )?value (?P<value>.*)")
_BOUNDS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below", "matching regex": "that matches"}
_ANY = "[...]"  # the values of a mapping
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")


def wrong(error: msgspec.ValidationError, given: object, kind: Any) -> str:
    """The sentence for what in ``given`` does not fit the type ``kind``."""
    match = _PLACE.fullmatch(str(error))
    what, place = (match["what"], match["place"] or "") if match else (str(error), "")
    path = place.removeprefix(".")
    if path.endswith(_ANY):
        path = f"each value of {path.removesuffix(_ANY)}"
    if found := _MISSING.fullmatch(what):
        return _missing(path, found["field"], _at(given, place))
    if found := _UNKNOWN.fullmatch(what):
        return unknown_field(given, kind) or f"{path and path + '.'}{found['field']} is no field; leave it out"
    if found := _EXPECTED.fullmatch(what):
        return f"{path or 'it'} must be {_words(found['wanted'])}, not {_words(found['got'])}"
    if found := _BOUND.fullmatch(what):
        bound = found["bound"].strip()
        for sign, text in _BOUNDS.items():
            bound = re.sub(rf"^{sign}\s*", f"{text} ", bound)
        return f"{path or 'it'} must be {_words(found['wanted'])} {bound}"
    if found := _ENUM.fullmatch(what):
        choices = _choices(kind, place)
        instead = f"; write {_either(choices)}" if choices else ""
        return f"{path or 'it'} can't be {found['value'].strip()}{instead}"
    return f"{path}: {what[:1].lower()}{what[1:]}" if path else f"{what[:1].lower()}{what[1:]}"


def wrong_json(error: msgspec.DecodeError, text: bytes | str, kind: Any) -> str:
    """The sentence for a text that can't be decoded as JSON of the type ``kind``."""
    if isinstance(error, msgspec.ValidationError):
        try:
            return wrong(error, msgspec.json.decode(text), kind)
        except msgspec.DecodeError as other:
            error = other
    if found := _BYTE.search(str(error)):
        return f"it is no JSON: see byte {found['byte']}"
    return "it is no JSON: it ends too early" if "truncated" in str(error) else "it is no JSON"


def unknown_field(given: object, kind: Any) -> str:
    """The sentence for the first field in ``given`` that the type ``kind`` does not have; empty if there is none."""
    return _unknown(given, _info(kind), "")


def _unknown(given: object, info: inspect.Type, path: str) -> str:
    for one in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(one, inspect.StructType) and isinstance(given, Mapping):
            fields = {field.encode_name: field.type for field in one.fields}
            for name, value in given.items():
                below = f"{path}.{name}" if path else str(name)
                if name not in fields:
                    near = difflib.get_close_matches(str(name), fields, 1, 0.6)
                    return f"{below} is no field; {f'write {near[0]}' if near else f'known are {_listed(fields)}'}"
                if sentence := _unknown(value, fields[name], below):
                    return sentence
        elif isinstance(one, inspect.ListType | inspect.VarTupleType) and isinstance(given, list | tuple):
            for index, value in enumerate(given):
                if sentence := _unknown(value, one.item_type, f"{path}[{index}]"):
                    return sentence
    return ""


def _choices(kind: Any, place: str) -> list[str]:
    """The values that the type has at this path, if it lists them."""
    infos = [_info(kind)]
    for key, _ in _STEP.findall(place):
        found: list[inspect.Type] = []
        for info in _flat(infos):
            if isinstance(info, inspect.StructType) and key:
                found += [field.type for field in info.fields if field.encode_name == key]
            elif isinstance(info, inspect.ListType | inspect.VarTupleType) and not key:
                found.append(info.item_type)
        infos = found
    listed: list[str] = []
    for info in _flat(infos):
        if isinstance(info, inspect.LiteralType):
            listed += map(str, info.values)
        elif isinstance(info, inspect.EnumType):
            listed += (str(item.value) for item in info.cls)
    return listed


def _flat(infos: list[inspect.Type]) -> list[inspect.Type]:
    return [part for info in infos for part in (info.types if isinstance(info, inspect.UnionType) else (info,))]


@functools.cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _missing(path: str, field: str, where: object) -> str:
    name = f"{path}.{field}" if path else field
    others = [str(key) for key in where] if isinstance(where, Mapping) else []
    near = difflib.get_close_matches(field, others, 1, 0.6)
    return f"{name} is missing; {f'{near[0]!r} is no field, write {field}' if near else 'write it'}"


def _words(types: str) -> str:
    names = [part.strip() for part in types.split("|")]
    return _either([_TYPES.get(name, name) for name in names if name != "null" or len(names) == 1])


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _at(given: object, place: str) -> object:
    """The value at the path in ``given``; None where the path goes elsewhere, as by ``[...]``."""
    value: Any = given
    for key, index in _STEP.findall(place):
        if key and isinstance(value, Mapping):
            value = value.get(key)
        elif index.isdecimal() and isinstance(value, list | tuple) and int(index) < len(value):
            value = value[int(index)]
        else:
            return None
    return value
