"""Reads ``-f FILE``, or a folder of files: Hub, Child and ChildSet manifests, lists of them, or bare child specs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from processhub.api.child import ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION, GROUP
from processhub.api.nulls import without_nulls
from processhub.api.wording import wrong
from processhub.cli.errors import UsageError
from processhub.client.specs import check_id, parse_child

Named = TypeVar("Named", Hub, ChildSet)
_SUFFIXES = (".yaml", ".yml", ".json")  # of the files of a folder that are read


def documents(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(where, object)`` of each object in a YAML or JSON file (``-``: stdin), and of each item of its lists.

    A folder stands for its files, as with kubectl. Raises UsageError.
    """
    if path != "-" and (folder := Path(path)).is_dir():
        found = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and not file.is_dir())
        if not found:
            raise UsageError(f"folder {path} has no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file")
        for file in found:
            yield from documents(str(file))
        return
    try:
        # The YAML reader finds out the encoding: Windows' PowerShell writes UTF-16.
        text = sys.stdin.read() if path == "-" else Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"file {path} not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"file {path} can't be read: {error}") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for index, document in enumerate(yaml.load_all(text, Loader=loader)):
            yield from _objects(f"{path}, document {index + 1}", document)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        raise UsageError(f"file {path} is not valid YAML: {' '.join(str(error).split())}") from error


def child_spec(where: str, found: dict[str, Any]) -> dict[str, Any]:
    """The spec of a Child manifest, with its id; a bare spec is returned unchanged. Raises UsageError."""
    if _is_bare(found):
        return found
    check_kind(where, found, "Child")
    spec = found.get("spec")
    if not isinstance(spec, dict):
        raise UsageError(f"{where}: a Child needs a spec with hub and a workload")
    return {**spec, "id": spec.get("id") or _metadata(where, found).get("name") or ""}


def marks_of(where: str, found: dict[str, Any]) -> list[str]:
    """Which of labels and annotations the manifest has. Raises UsageError."""
    return [name for name in ("labels", "annotations") if not _is_bare(found) and _metadata(where, found).get(name)]


def namespace_of(manifests: Iterable[tuple[str, dict[str, Any]]], named: str | None) -> str | None:
    """The namespace that the manifests name, or ``named``. Raises UsageError if they name different ones."""
    spaces = (_metadata(where, each).get("namespace") for where, each in manifests if not _is_bare(each))
    found = {str(space) for space in spaces if space}
    if named and (others := found - {named}):
        raise UsageError(f"the files have objects of namespace {min(others)}, and -n names {named}")
    if len(found) > 1:
        raise UsageError(f"the files have objects of different namespaces: {', '.join(sorted(found))}")
    return min(found, default=named)


def in_namespace(
    manifests: Sequence[tuple[str, dict[str, Any]]], named: str | None
) -> Sequence[tuple[str, dict[str, Any]]]:
    """The manifests of the named namespace, or all if they name no more than one. Raises UsageError."""
    if named is None:
        namespace_of(manifests, None)
        return manifests
    return [each for each in manifests if namespace_of((each,), None) in (None, named)]


def set_specs(where: str, found: dict[str, Any]) -> list[ChildSpec]:
    """The children of a ChildSet manifest. Raises UsageError, InvalidChild."""
    plain = found.get("spec")
    template = plain.get("template") if isinstance(plain, dict) else None
    if not isinstance(template, dict):
        raise UsageError(f"{where}: a ChildSet needs a spec with hub, replicas or ids, and a template")
    for field in ("hub", "id"):
        if template.get(field):
            raise UsageError(f"{where}: spec.template has {field}; leave it out, each child gets the set's")
    item = named_object(where, found, ChildSet)
    if (item.spec.replicas is None) == (found["spec"].get("ids") is None):
        raise UsageError(f"{where}: a ChildSet has exactly one of spec.replicas and spec.ids")
    if not item.ids:
        return []
    model = parse_child({**template, "id": item.ids[0]}, f"{where}, spec.template")
    for child_id in item.spec.ids:
        check_id(child_id, f"{where}, spec.ids")
    return [msgspec.structs.replace(model, hub=item.spec.hub, id=child_id) for child_id in item.ids]


def named_object(where: str, found: dict[str, Any], kind: type[Named]) -> Named:
    """The Hub or ChildSet of a manifest. Raises UsageError."""
    try:
        item = msgspec.convert(without_nulls(found, kind), kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {wrong(error, found, kind)}") from error
    if not item.metadata.name:
        raise UsageError(f"{where}: the {kind.__name__} has no metadata.name")
    return item


def is_foreign(found: dict[str, Any]) -> bool:
    """Whether it is an object of another API group, or one that machines write."""
    kind, group = found.get("kind"), str(found.get("apiVersion", "")).partition("/")[0]
    others = bool(kind) and kind not in ("Hub", "Child", "ChildSet") and group not in ("", GROUP)
    return others or kind == "RegistrySlice"


def is_of_hub(found: dict[str, Any]) -> bool:
    """Whether it is the object of a static child, as in an export: spec.children of its Hub has that child."""
    metadata = found.get("metadata")
    owners = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    return any(
        owner.get("kind") == "Hub" and owner.get("controller") for owner in owners or () if isinstance(owner, dict)
    )


def check_kind(where: str, found: dict[str, Any], *kinds: str) -> str:
    """The object's kind, one of ``kinds``. Raises UsageError."""
    kind, version = found.get("kind"), found.get("apiVersion")
    if kind not in kinds or version != API_VERSION:
        expected = " or ".join(kinds)
        raise UsageError(f"{where}: expected kind {expected} of {API_VERSION}, got kind {kind} of {version}")
    return str(kind)


def _is_bare(found: dict[str, Any]) -> bool:
    """Whether this is a child's spec alone, and no manifest."""
    return "kind" not in found and "apiVersion" not in found


def _metadata(where: str, found: dict[str, Any]) -> dict[str, Any]:
    metadata = found.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise UsageError(f"{where}: metadata must be a mapping")
    return metadata


def _objects(where: str, document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if document is None:
        return
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
        document = document["items"]
    if isinstance(document, dict):
        yield where, document
    elif isinstance(document, list):
        for index, item in enumerate(document):
            yield from _objects(f"{where}, item {index + 1}", item)
    else:
        raise UsageError(f"{where}: expected a manifest or a child's spec, got {document!r}")
