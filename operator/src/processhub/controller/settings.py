"""The operator's own settings, from its environment, which the chart sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from processhub.api.wording import wrong_json

T = TypeVar("T")


class SettingsError(Exception):
    """A variable is missing or has a wrong form. The message names it."""


class MemberDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The chart's value ``members.defaults``, which applies to all members. The fields of a Hub override it.

    ``image`` "" is the operator's own. ``template`` is a PodTemplateSpec, as ``spec.members.template`` of a Hub.
    """

    image: str = ""
    resources: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    )
    pod_security_context: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    )
    template: dict[str, Any] = {}


class MemberNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The NetworkPolicy of the members of each hub, the chart's ``networkPolicy.members``.

    ``peers`` (NetworkPolicyPeers) may reach the members' port, in addition to the hub's own pods; () means any.
    """

    peers: tuple[dict[str, Any], ...] = msgspec.field(default=(), name="from")


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The chart's ``tls``, where it is enabled.

    ``secret``: the Secret in which cert-manager keeps the authority; "" if the operator makes it. The lifetimes of
    authority and certificates are in seconds.
    """

    secret: str = ""
    certificate_seconds: float = 7 * 86400.0
    ca_seconds: float = 365 * 86400.0


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. No ``namespaces`` means all; ``image`` is that of members; ``address`` is the pod's, "" if unknown.

    Where ``member_network`` is None, members get no NetworkPolicy, and where ``tls`` is None, no certificates.
    """

    pod_name: str
    pod_uid: str
    namespace: str
    namespaces: tuple[str, ...] = ()
    image: str = "processhub"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    member_defaults: MemberDefaults = MemberDefaults()
    member_network: MemberNetwork | None = None
    tls: TlsSettings | None = None
    address: str = ""
    port: int = 8080
    log_level: str = "INFO"

    @property
    def bind(self) -> str:
        """The address on which the HTTP port listens."""
        return self.address or "0.0.0.0"


def from_environment(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """Read the settings. Raises SettingsError."""
    try:
        name, namespace = environ["POD_NAME"], environ["POD_NAMESPACE"]
    except KeyError as error:
        raise SettingsError(
            f"the environment variable {error.args[0]} is not set; the operator runs in a pod that gets it by fieldRef"
        ) from error
    port = environ.get("PORT", "8080")
    if not port.isdigit():
        raise SettingsError(f"PORT={port!r} is not a number")
    defaults = _json(environ, "PROCESSHUB_MEMBER_DEFAULTS", "members.defaults", MemberDefaults) or MemberDefaults()
    network = _json(environ, "PROCESSHUB_MEMBER_NETWORK", "networkPolicy.members", MemberNetwork)
    return OperatorSettings(
        pod_name=name,
        pod_uid=environ.get("POD_UID", ""),
        namespace=namespace,
        namespaces=_list(environ.get("WATCH_NAMESPACES", "")),
        image=environ.get("PROCESSHUB_IMAGE", "processhub"),
        image_pull_policy=environ.get("PROCESSHUB_IMAGE_PULL_POLICY", "IfNotPresent"),
        image_pull_secrets=_list(environ.get("PROCESSHUB_IMAGE_PULL_SECRETS", "")),
        member_defaults=defaults,
        member_network=network,
        tls=_json(environ, "PROCESSHUB_TLS", "tls", TlsSettings),
        address=environ.get("POD_IP", ""),
        port=int(port),
        log_level=environ.get("LOG_LEVEL", "INFO").upper(),
    )


def _json(environ: Mapping[str, str], name: str, value: str, kind: type[T]) -> T | None:
    """The JSON in a variable that has this value of the chart; None if it is not set. Raises SettingsError."""
    if not environ.get(name):
        return None
    try:
        return msgspec.json.decode(environ[name], type=kind)
    except msgspec.DecodeError as error:
        why = wrong_json(error, environ[name], kind)
        raise SettingsError(f"{name} (the chart's {value}): {why}") from error


def _list(text: str) -> tuple[str, ...]:
    """The parts of a text between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
