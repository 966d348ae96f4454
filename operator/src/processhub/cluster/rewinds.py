"""What contradicts that which an informer has seen: etcd was restored to an earlier time, or fields are dropped.

The API server drops fields that the installed CRD does not have, from what is written and also from stored objects when
it reads them. So the spec of an object may change without a new generation. Nothing else makes that but a restore of
etcd.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from processhub.api.meta import GROUP
from processhub.cluster.decoding import Undecodable
from processhub.cluster.kinds import Kind

T = TypeVar("T")
Key = tuple[str, str]
log = logging.getLogger(__name__)

_ABSENT = object()


class Staleness:
    """For how long all lists have been older than what was seen."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._version = 0  # of the last such list

    def seconds(self, version: int, now: float) -> float:
        """Take a list that is older; returns the seconds since the first one. Lists of one history don't go back."""
        if self._since is None or version < self._version:
            self._since = now
        self._version = version
        return now - self._since


class Rewinds:
    """What an informer knows of contradictions. ``on_rewound()`` is called when etcd was restored.

    ``doubtful``: the objects to be read once more before their new version is taken.
    """

    def __init__(self, kind: Kind[Any], on_rewound: Callable[[], None] | None, *, keeps_dropped: bool) -> None:
        self._kind, self._on_rewound, self._keeps_dropped = kind, on_rewound, keeps_dropped
        self._dropped: set[str] = set()  # fields of specs that the API server was seen to drop
        self.doubtful: dict[Key, None] = {}
        self.staleness = Staleness()

    @property
    def matter(self) -> bool:
        """Whether changes without a new generation are looked for."""
        return self._on_rewound is not None and self._kind.group == GROUP

    def notify(self) -> bool:
        """Notify that etcd was restored; returns whether anybody is notified."""
        if self._on_rewound is not None:
            self._on_rewound()
        return self._on_rewound is not None

    def doubt(self, key: Key, known: Any, now: Any) -> bool:
        """Whether a changed object has to be read once more: other fields differ than those known to be dropped."""
        if {path for path, _ in differences(known.spec, now.spec, None)} <= self._dropped:
            return False
        self.doubtful[key] = None
        return True

    def are_dropped(self, known: Any, now: Any, raw: dict[str, Any]) -> bool:
        """Whether all fields that differ are absent from ``raw``, the JSON of ``now``. They are remembered then."""
        found = list(differences(known.spec, now.spec, raw.get("spec")))
        if not all(absent for _, absent in found):
            return False
        paths = {path for path, _ in found}
        log.warning(
            "the CRD %s.%s in this cluster is older than this program needs: the API server drops %s; apply the CRDs of"
            " this version",
            *(self._kind.plural, self._kind.group),
            ", ".join(f"spec.{path}" for path in sorted(paths - self._dropped)),
        )
        self._dropped |= paths
        return True

    def with_known_spec(self, known: Any, now: T) -> T:
        """The object with the spec that is known, as the API server has dropped fields of it."""
        whole: Any = now
        return msgspec.structs.replace(whole, spec=known.spec) if self._keeps_dropped else now


def is_back(known: Any, now: Any) -> bool:
    """Whether the generation of an object has fallen, which nothing makes but a restore of etcd."""
    before, after = known.metadata, now.metadata
    return bool(before.uid == after.uid and after.generation < before.generation)


def contradicts(known: Any, now: Any) -> bool:
    """Whether a custom resource has another spec under the same generation."""
    before, after = known.metadata, now.metadata
    same = before.uid == after.uid and before.generation == after.generation
    return same and not isinstance(now, Undecodable) and bool(known.spec != now.spec)


def differences(before: object, now: object, raw: object, path: str = "") -> Iterator[tuple[str, bool]]:
    """The fields of two specs that differ, as dotted paths, each with whether ``raw``, the JSON of ``now``, lacks it.

    A field with a default is never absent from an object if the CRD has the field. ``path`` is that of the specs.
    """
    if before == now:
        return
    if isinstance(before, msgspec.Struct) and type(before) is type(now):
        for field in msgspec.structs.fields(before):
            name = field.encode_name
            inner = raw.get(name, _ABSENT) if isinstance(raw, dict) else _ABSENT
            where = f"{path}.{name}" if path else name
            yield from differences(getattr(before, field.name), getattr(now, field.name), inner, where)
    elif isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now):
        parts = raw if isinstance(raw, list) and len(raw) == len(now) else [_ABSENT] * len(now)
        for was, item, inner in zip(before, now, parts, strict=True):
            yield from differences(was, item, inner, f"{path}[]")
    else:
        yield path, raw is _ABSENT
