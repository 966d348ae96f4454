"""Credentials from an exec plug-in, the ``exec`` of a kubeconfig's user (aws, gcloud, kubelogin and others).

The protocol is client.authentication.k8s.io/v1 and v1beta1: the plug-in's standard output is an ExecCredential with a
token, a client certificate, or both. A credential is used until its ``expirationTimestamp``, and one without that as
long as the process lives. If the API server rejects it (401), the client reads its configuration again, which runs the
plug-in again.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from processhub.cluster.config import ConfigError, Credentials

_GROUP = "client.authentication.k8s.io"
_VERSIONS = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
# Fields of a kubeconfig's cluster that a plug-in with provideClusterInfo gets under the same name.
_CLUSTER_FIELDS = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
_EXTENSION = f"{_GROUP}/exec"


class Credential(msgspec.Struct, frozen=True):
    """What a plug-in answered; ``until`` is a Unix time, infinity if it does not expire."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    until: float = float("inf")


class _CredentialStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: str | None = None


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _CredentialStatus | None = None


class ExecPlugin:
    """The plug-in of one user of a kubeconfig, and the credential that it gave last."""

    def __init__(
        self, kubeconfig: str, folder: Path, spec: object, cluster: dict[str, Any], credentials: Credentials
    ) -> None:
        """``folder`` is that of the kubeconfig, to which a command with a slash is relative. Raises ConfigError."""
        if not isinstance(spec, dict) or not spec.get("command"):
            raise ConfigError(f"kubeconfig {kubeconfig}: users[].user.exec has no command; name the plug-in's program")
        self._spec, self._version = spec, str(spec.get("apiVersion") or "")
        self._what = f"kubeconfig {kubeconfig}: the exec plug-in {spec['command']}"
        if self._version not in _VERSIONS:
            raise ConfigError(
                f"{self._what} has apiVersion {self._version or 'none'}; write {' or '.join(_VERSIONS)} in"
                " users[].user.exec"
            )
        args, self._env = spec.get("args") or [], spec.get("env") or []
        named = isinstance(self._env, list) and all(isinstance(one, dict) and one.get("name") for one in self._env)
        if not named or not isinstance(args, list):
            raise ConfigError(f"{self._what}: args must be a list of texts, and env a list of name and value")
        command = str(spec["command"])
        self._argv = [str(folder / command) if "/" in command else command, *map(str, args)]
        self._cluster = _cluster_info(cluster, credentials) if spec.get("provideClusterInfo") else None
        self._known: Credential | None = None
        self._tls: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def authorization(self) -> str | None:
        """The value of the Authorization header; None if the plug-in gave only a certificate. Raises ConfigError."""
        token = (await self.credential()).token
        return f"Bearer {token}" if token else None

    async def credential(self) -> Credential:
        """The credential, from a new run of the plug-in if the last one has expired. Raises ConfigError."""
        async with self._lock:
            if self._known is None or time.time() >= self._known.until:
                before, self._known = self._known, await self._run()
                if self._tls is not None and before is not None and self._known.certificate != before.certificate:
                    load_certificate(self._tls, self._known.certificate, self._known.key)
            return self._known

    def use(self, tls: ssl.SSLContext) -> None:
        """Give later connections of this context the certificates of later runs."""
        self._tls = tls

    async def _run(self) -> Credential:
        interactive = self._interactive()
        given = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {"interactive": interactive}}
        if self._cluster is not None:
            given["spec"] = {"interactive": interactive, "cluster": self._cluster}
        own = {str(item["name"]): str(item.get("value", "")) for item in self._env}
        environment = {**os.environ, **own, "KUBERNETES_EXEC_INFO": msgspec.json.encode(given).decode()}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=environment,
                stdin=None if interactive else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,  # what it says to the user goes to stderr, which is this process's
            )
        except OSError as error:
            hint = f"; {' '.join(str(self._spec['installHint']).split())}" if self._spec.get("installHint") else ""
            raise ConfigError(f"{self._what} can't be run: {error.strerror or error}{hint}") from error
        out, _ = await process.communicate()
        if process.returncode:
            raise ConfigError(f"{self._what} ended with exit code {process.returncode}")
        return self._read(out)

    def _interactive(self) -> bool:
        """Whether the plug-in may ask the user. Raises ConfigError."""
        mode = self._spec.get("interactiveMode") or "IfAvailable"
        terminal = sys.stdin is not None and sys.stdin.isatty()
        if mode == "Always" and not terminal:
            raise ConfigError(f"{self._what} must ask you something (interactiveMode Always); run this on a terminal")
        return mode != "Never" and terminal

    def _read(self, out: bytes) -> Credential:
        """The credential in the plug-in's output. Raises ConfigError."""
        try:
            answer = msgspec.json.decode(out, type=_Answer)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._what} printed no ExecCredential") from error
        status = answer.status
        if answer.kind != "ExecCredential" or answer.api_version != self._version or status is None:
            found = f"kind {answer.kind or 'none'} of {answer.api_version or 'none'}"
            raise ConfigError(
                f"{self._what} printed {found}; expected an ExecCredential of {self._version}, with a status"
            )
        if not status.token and not status.client_certificate_data:
            raise ConfigError(f"{self._what} gave neither a token nor a client certificate")
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise ConfigError(f"{self._what} gave a client certificate without its key, or a key alone")
        expires = status.expiration_timestamp
        try:
            until = datetime.fromisoformat(expires).timestamp() if expires else float("inf")
        except ValueError as error:
            raise ConfigError(f"{self._what} gave an expirationTimestamp that is no RFC 3339 time") from error
        return Credential(
            status.token or "",
            (status.client_certificate_data or "").encode(),
            (status.client_key_data or "").encode(),
            until,
        )


def load_certificate(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Make the context identify itself by this certificate. Raises OSError, ssl.SSLError."""
    # The ssl module reads these from a file only, so they are in a private one while it does.
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        tls.load_cert_chain(file.name)


def _cluster_info(cluster: dict[str, Any], credentials: Credentials) -> dict[str, Any]:
    """``spec.cluster`` of what a plug-in gets."""
    found = {field: cluster[field] for field in _CLUSTER_FIELDS if cluster.get(field)}
    if credentials.authority:
        found["certificate-authority-data"] = base64.b64encode(credentials.authority).decode()
    extensions = cluster.get("extensions")
    for extension in extensions if isinstance(extensions, list) else ():
        if isinstance(extension, dict) and extension.get("name") == _EXTENSION:
            found["config"] = extension.get("extension")
    return found
