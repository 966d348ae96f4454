"""The kinds of objects: the API path and the struct of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import KubernetesNode, Lease, Pod
from processhub.api.meta import GROUP, VERSION, PartialObject
from processhub.api.slice import RegistrySlice

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of object: its place in the API, and the type that it is decoded to.

    Lists and watches of a ``metadata_only`` kind carry only the metadata. Users may write anything into some parts of
    the objects of a ``free`` kind.
    """

    group: str  # "" is the core group
    version: str
    plural: str
    type: type[T]
    namespaced: bool = True
    metadata_only: bool = False
    free: bool = False

    @property
    def api_version(self) -> str:
        """The text ``group/version``, or the version alone in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path; ``namespace`` None means all namespaces (or a cluster-scoped kind)."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


HUBS = Kind(GROUP, VERSION, "hubs", Hub, free=True)
CHILDREN = Kind(GROUP, VERSION, "children", Child, free=True)
CHILD_SETS = Kind(GROUP, VERSION, "childsets", ChildSet, free=True)
SLICES = Kind(GROUP, VERSION, "registryslices", RegistrySlice)
LEASES = Kind("coordination.k8s.io", "v1", "leases", Lease)
PODS = Kind("", "v1", "pods", Pod)
NODES = Kind("", "v1", "nodes", KubernetesNode, namespaced=False)


def untyped(api_version: str, plural: str, *, namespaced: bool = True) -> Kind[dict[str, Any]]:
    """A kind whose objects stay plain dicts (``untyped("apps/v1", "statefulsets")``)."""
    group, _, version = api_version.rpartition("/")
    return Kind(group, version, plural, dict[str, Any], namespaced)


def metadata_of(api_version: str, plural: str, *, namespaced: bool = True) -> Kind[PartialObject]:
    """A kind of which only the metadata is read (``metadata_of("apps/v1", "statefulsets")``)."""
    group, _, version = api_version.rpartition("/")
    return Kind(group, version, plural, PartialObject, namespaced, metadata_only=True)
