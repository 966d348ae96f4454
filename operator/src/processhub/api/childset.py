"""The ChildSet resource: many equal children in one object. The defaults equal the CRD's, which a test checks."""

from __future__ import annotations

from processhub.api.child import ChildSpec
from processhub.api.meta import Condition, ObjectMeta, Wire


class ChildSetSpec(Wire, frozen=True, kw_only=True):
    """The spec of a ChildSet: exactly one of ``replicas`` and ``ids`` is set. The template's hub and id are empty."""

    hub: str
    replicas: int | None = None
    ids: tuple[str, ...] = ()
    max_failed: int | str = "10%"
    min_ready_seconds: int = 2
    template: ChildSpec


class ChildSetStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The status of a ChildSet, which the operator writes. The counts are of children."""

    conditions: tuple[Condition, ...] = ()
    observed_generation: int = -1
    desired: int = 0
    running: int = 0
    pending: int = 0
    failed: int = 0
    selector: str = ""


class ChildSet(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Many equal children of a hub. They have no Child objects."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "ChildSet"
    metadata: ObjectMeta
    spec: ChildSetSpec
    status: ChildSetStatus = ChildSetStatus()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the set's children: spec.ids, else ``<name>-0`` to ``<name>-(replicas - 1)``."""
        if self.spec.replicas is None:
            return self.spec.ids
        name = self.metadata.name
        return tuple(f"{name}-{number}" for number in range(self.spec.replicas))

    def has(self, child_id: str) -> bool:
        """Whether the set contains this id."""
        if self.spec.replicas is None:
            return child_id in self.spec.ids
        name, _, digits = child_id.rpartition("-")
        if name != self.metadata.name or not (digits.isascii() and digits.isdigit()):
            return False
        return str(int(digits)) == digits and int(digits) < self.spec.replicas
