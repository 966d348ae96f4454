"""What every Kubernetes object has: metadata, owner references, conditions."""

from __future__ import annotations

import msgspec

GROUP = "processhub.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
MESSAGE_MAX = 32768  # characters of a condition's message, by the schema


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all resource structs: immutable, camelCase on the wire, defaults left out when written."""


class EnvVar(Wire, frozen=True, kw_only=True):
    """An environment variable of a container or an exec child."""

    name: str
    value: str = ""


class OwnerReference(Wire, frozen=True, kw_only=True):
    """An entry of metadata.ownerReferences."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """The part of metadata that the project reads; times are RFC 3339 text."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """``(namespace, name)``."""
        return self.namespace, self.name

    def owned_by(self, uid: str) -> bool:
        """Whether the object with this uid is among the owners."""
        return any(reference.uid == uid for reference in self.owner_references)


class PartialObject(Wire, frozen=True, kw_only=True):
    """An object of any kind of which only the metadata was asked for (PartialObjectMetadata)."""

    metadata: ObjectMeta


class Condition(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One entry of status.conditions (the Kubernetes convention; status is True, False or Unknown)."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


def condition_of(kind: str, holds: bool, reason: str, message: str, generation: int) -> Condition:
    """A condition that holds or does not, of an object in this generation."""
    return Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        observed_generation=generation,
    )


def find_condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """The condition of this type, if there is one."""
    return next((condition for condition in conditions if condition.type == kind), None)


def brief(text: str, most: int) -> str:
    """The beginning of a text in ``most`` bytes of UTF-8; what has none (a lone surrogate) becomes a question mark."""
    return text[:most].encode(errors="replace")[:most].decode(errors="ignore")


def merge_conditions(old: tuple[Condition, ...], new: tuple[Condition, ...], now: str) -> tuple[Condition, ...]:
    """``new`` with lastTransitionTime kept where the status did not change and ``now`` (RFC 3339) where it did.

    A message that is longer than the schema allows is cut: with it the whole status would be refused, for ever.
    """
    merged = []
    for condition in new:
        before = find_condition(old, condition.type)
        kept = before is not None and before.status == condition.status and before.last_transition_time
        merged.append(
            msgspec.structs.replace(
                condition,
                message=condition.message[:MESSAGE_MAX],
                last_transition_time=before.last_transition_time if before and kept else now,
            )
        )
    return tuple(merged)
