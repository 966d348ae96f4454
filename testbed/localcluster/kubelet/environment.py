"""The environment of a container: field references, environment variables, ``$(VAR)`` in command and arguments."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from processhub.cluster.errors import NotFoundError

Json = dict[str, Any]
Lookup = Callable[[str, str], Awaitable[Json]]  # (plural, name) in the pod's namespace; raises NotFoundError

_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_KEYED = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")
_SUFFIXES = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


class ContainerConfigError(Exception):
    """The container cannot be made from its spec (yet); the message names what is missing."""


@dataclass(frozen=True)
class Place:
    """The place of a pod: its node and addresses."""

    node: str
    host_ip: str
    pod_ip: str


def field_value(pod: Json, place: Place, path: str) -> str:
    """The value of a ``fieldRef``. Raises ContainerConfigError for a path that the downward API does not have."""
    metadata, spec = pod["metadata"], pod["spec"]
    if match := _KEYED.match(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = metadata.get(path.split(".")[1]) or {}
        return "\n".join(f'{key}="{_escape(pairs[key])}"' for key in sorted(pairs))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": place.node,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": place.host_ip,
        "status.hostIPs": place.host_ip,
        "status.podIP": place.pod_ip,
        "status.podIPs": place.pod_ip,
    }
    if path not in values:
        raise ContainerConfigError(f"unsupported fieldPath {path}")
    return str(values[path])


def expand(text: str, values: dict[str, str]) -> str:
    """Replace ``$(NAME)`` if NAME is known, and ``$$`` by ``$``; the rest stays."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


async def resolve(pod: Json, container: Json, place: Place, base: dict[str, str], lookup: Lookup) -> dict[str, str]:
    """The container's environment: ``base``, then envFrom, then env (which may use the variables before it).

    Raises ContainerConfigError if a ConfigMap, Secret or key is missing and not optional.
    """
    values: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        for reference, plural in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if chosen := source.get(reference):
                prefix = source.get("prefix", "")
                data = await _data(lookup, plural, chosen)
                values |= {prefix + key: value for key, value in data.items()}
    known = base | values
    for entry in container.get("env") or ():
        name = entry["name"]
        if "valueFrom" in entry:
            value = await _value_from(pod, container, place, entry["valueFrom"], lookup)
        else:
            value = expand(entry.get("value", ""), known)
        if value is not None:
            known[name] = value
    return known


def command_line(container: Json, values: dict[str, str]) -> list[str]:
    """Command and args, expanded. Raises ContainerConfigError without a command: there is no image to ask."""
    command = container.get("command") or []
    if not command:
        raise ContainerConfigError(
            f"container {container['name']} has no command, and there is no image to take it from"
        )
    return [expand(word, values) for word in [*command, *(container.get("args") or [])]]


async def _value_from(pod: Json, container: Json, place: Place, source: Json, lookup: Lookup) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, place, reference["fieldPath"])
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, container, reference)
    for kind, plural in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if reference := source.get(kind):
            data = await _data(lookup, plural, reference)
            if reference["key"] in data:
                return data[reference["key"]]
            if not reference.get("optional"):
                raise ContainerConfigError(f"couldn't find key {reference['key']} in {plural[:-1]} {reference['name']}")
            return None
    raise ContainerConfigError(f"unsupported valueFrom {sorted(source)}")


def resource_value(pod: Json, container: Json, reference: Json) -> str:
    """The value of a ``resourceFieldRef``, rounded up to its divisor; 0 if nothing is set."""
    name = reference.get("containerName")
    chosen = container
    if name:
        chosen = next(entry for entry in pod["spec"]["containers"] if entry["name"] == name)
    kind, _, resource = reference["resource"].partition(".")
    quantity = (chosen.get("resources") or {}).get(kind, {}).get(resource, "0")
    divisor = _quantity(reference.get("divisor") or "1") or 1.0
    return str(-int(-_quantity(quantity) // divisor))


def _quantity(text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", text)
    if match is None or match[2] not in _SUFFIXES:
        raise ContainerConfigError(f"unsupported quantity {text}")
    return float(match[1]) * _SUFFIXES[match[2]]


async def _data(lookup: Lookup, plural: str, reference: Json) -> dict[str, str]:
    try:
        found = await lookup(plural, reference["name"])
    except NotFoundError:
        if reference.get("optional"):
            return {}
        raise ContainerConfigError(f'{plural[:-1]} "{reference["name"]}" not found') from None
    data = found.get("data") or {}
    if plural == "secrets":
        return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}
    return {key: str(value) for key, value in data.items()}


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
