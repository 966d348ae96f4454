"""Reading the plain kinds of kubeconfig at once; whatever needs more is left to the official loader.

The official client's loader takes 0.4 s to import, which a command line feels on every call. Certificates and
tokens, in one file, need nothing of it. Exec plugins, auth providers, proxies, several merged files and pods'
service accounts do.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import yaml

from processhub.cluster.config import DEFAULT_KUBECONFIG, Config, ConfigError, load_config

_PLAIN_CLUSTER = {
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
    "disable-compression",
    "extensions",
}
_PLAIN_USER = {"client-certificate", "client-certificate-data", "client-key", "client-key-data", "token", "tokenFile"}
_SECTIONS = {"contexts": "context", "clusters": "cluster", "users": "user"}


async def read_config(context: str | None = None, kubeconfig: str | None = None) -> Config:
    """The configuration of ``kubeconfig``, $KUBECONFIG or ~/.kube/config, else of the pod. Raises ConfigError."""
    return _from_file(context, kubeconfig) or await load_config(context, kubeconfig)


def _from_file(context: str | None, kubeconfig: str | None) -> Config | None:
    named = kubeconfig or os.environ.get("KUBECONFIG") or ""
    if os.pathsep in named:
        return None
    path = Path(named or DEFAULT_KUBECONFIG).expanduser()
    if path.is_file():
        return _plain(path, context)
    if named:
        raise ConfigError(f"kubeconfig {path} not found; name one that exists with --kubeconfig or KUBECONFIG")
    return None


def _plain(path: Path, context_name: str | None) -> Config | None:
    """The file's configuration, None where it needs the official loader. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 safe either way
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"kubeconfig {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"kubeconfig {path} is no kubeconfig: it holds {type(found).__name__}, not a mapping")
    name = context_name or str(found.get("current-context") or "")
    if not name:
        raise ConfigError(f"kubeconfig {path} has no current-context; name one with --context")
    context = _entry(path, found, "contexts", name)
    cluster = _entry(path, found, "clusters", str(context.get("cluster", "")))
    user = _entry(path, found, "users", str(context["user"])) if context.get("user") else {}
    if cluster.keys() - _PLAIN_CLUSTER or user.keys() - _PLAIN_USER or not cluster.get("server"):
        return None
    server = str(cluster["server"]).rstrip("/")
    token_file = path.parent / str(user["tokenFile"]) if user.get("tokenFile") else None

    async def token() -> str | None:
        value = token_file.read_text().strip() if token_file else user.get("token")  # a file may have been rotated
        return f"Bearer {value}" if value else None

    try:
        context_or_not = _tls(path.parent, cluster, user) if server.startswith("https") else False
        if token_file:
            token_file.read_text()
    except (OSError, ValueError, binascii.Error) as error:
        raise ConfigError(f"kubeconfig {path}, context {name}: credentials can't be read: {error}") from error
    return Config(
        host=server,
        namespace=str(context.get("namespace") or "default"),
        ssl=context_or_not,
        token=token,
        server_hostname=cluster.get("tls-server-name") or None,
    )


def _entry(path: Path, found: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    entries = {str(entry.get("name")): entry for entry in found.get(section) or () if isinstance(entry, dict)}
    if name not in entries:
        singular = _SECTIONS[section]
        there = ", ".join(sorted(entries)) or "none"
        raise ConfigError(f"kubeconfig {path} has no {singular} {name!r}; it has {there}")
    return dict(entries[name].get(_SECTIONS[section]) or {})


def _tls(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    authority = _content(folder, cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = _content(folder, user, "client-certificate"), _content(folder, user, "client-key")
    if certificate and key:
        # The ssl module takes them from a file only: a private one, for as long as the reading takes.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Ordinary kubeconfigs (kubeadm, kwok) carry CAs without the key usage that Python 3.13 insists on.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


def _content(folder: Path, section: dict[str, Any], field: str) -> bytes:
    if data := section.get(f"{field}-data"):
        return base64.b64decode(str(data), validate=True)
    if name := section.get(field):
        return (folder / str(name)).read_bytes()
    return b""
