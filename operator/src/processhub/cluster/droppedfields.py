"""Fields of a custom resource that the API server drops, because the CRD that is installed does not have them.

The API server drops them from what is written, and also from stored objects when it reads them. So the spec of an
object may change without a new generation. Nothing else makes that but a restore of etcd.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_ABSENT = object()


def differences(before: object, now: object, raw: object) -> Iterator[tuple[str, bool]]:
    """The fields of two specs that differ, as dotted paths, each with whether ``raw``, the JSON of ``now``, lacks it.

    A field with a default is never absent from an object if the CRD has the field.
    """
    yield from _differences(before, now, raw, "")


def _differences(before: object, now: object, raw: object, path: str) -> Iterator[tuple[str, bool]]:
    if before == now:
        return
    if isinstance(before, msgspec.Struct) and type(before) is type(now):
        for field in msgspec.structs.fields(before):
            name = field.encode_name
            inner = raw.get(name, _ABSENT) if isinstance(raw, dict) else _ABSENT
            where = f"{path}.{name}" if path else name
            yield from _differences(getattr(before, field.name), getattr(now, field.name), inner, where)
    elif isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now):
        parts = raw if isinstance(raw, list) and len(raw) == len(now) else [_ABSENT] * len(now)
        for was, item, inner in zip(before, now, parts, strict=True):
            yield from _differences(was, item, inner, f"{path}[]")
    else:
        yield path, raw is _ABSENT
