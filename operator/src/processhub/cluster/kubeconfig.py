"""The configuration of the API client: from a kubeconfig, else from the pod's service account.

A single file with certificates and tokens is read here. Exec plug-ins, auth providers, proxies and several merged files
are left to the official client's loader. Its import takes 0.4 s of CPU time, which would be noticed at every call of
the command line and at every start of a member.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from processhub.cluster.config import Config, ConfigError, Credentials

DEFAULT_KUBECONFIG = Path("~/.kube/config").expanduser()
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
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
    """Read the configuration of ``kubeconfig``, $KUBECONFIG or ~/.kube/config, else of the pod. Raises ConfigError."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or ""
    if os.pathsep in named:
        return await load_officially(named, context)
    return _plain_or_of_pod(named, context) or await load_officially(named or str(DEFAULT_KUBECONFIG), context)


def _plain_or_of_pod(named: str, context: str | None) -> Config | None:
    path = Path(named or DEFAULT_KUBECONFIG).expanduser()
    if path.is_file():
        return _plain(path, context)
    if named:
        raise ConfigError(f"kubeconfig {path} not found; name one that exists with --kubeconfig or KUBECONFIG")
    return _of_pod(path)


def _of_pod(looked_for: Path) -> Config:
    """The configuration from the service account that Kubernetes mounts into a pod. Raises ConfigError."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError(
            f"no cluster to talk to: there is no {looked_for}, and this is no pod; set KUBECONFIG or --kubeconfig"
        )
    try:
        credentials = Credentials(authority=(SERVICE_ACCOUNT / "ca.crt").read_bytes())
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        (SERVICE_ACCOUNT / "token").read_text()
        context = _tls(credentials)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no cluster to talk to: the pod's service account can't be read: {error}") from error
    return Config(
        host=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace,
        ssl=context,
        token=_token_of_file(SERVICE_ACCOUNT / "token"),
        credentials=credentials,
    )


def _plain(path: Path, context_name: str | None) -> Config | None:
    """The configuration in the file, or None if it needs the official loader. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 safe either way
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"kubeconfig {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"kubeconfig {path} is not a kubeconfig: it contains a {type(found).__name__}, not a mapping")
    name = context_name or str(found.get("current-context") or "")
    if not name:
        raise ConfigError(f"kubeconfig {path} has no current-context; name one with --context")
    context = _entry(path, found, "contexts", name)
    cluster = _entry(path, found, "clusters", str(context.get("cluster", "")))
    user = _entry(path, found, "users", str(context["user"])) if context.get("user") else {}
    if cluster.keys() - _PLAIN_CLUSTER or user.keys() - _PLAIN_USER or not cluster.get("server"):
        return None
    server = str(cluster["server"]).rstrip("/")
    token = _constant_token(str(user["token"])) if user.get("token") else _constant_token("")
    try:
        if user.get("tokenFile"):
            token_file = path.parent / str(user["tokenFile"])
            token_file.read_text()
            token = _token_of_file(token_file)
        credentials = Credentials(
            authority=_content(path.parent, cluster, "certificate-authority"),
            certificate=_content(path.parent, user, "client-certificate"),
            key=_content(path.parent, user, "client-key"),
            verify=not cluster.get("insecure-skip-tls-verify"),
        )
        tls = _tls(credentials) if server.startswith("https") else False
    except (OSError, ValueError, binascii.Error) as error:
        raise ConfigError(f"kubeconfig {path}, context {name}: credentials can't be read: {error}") from error
    return Config(
        host=server,
        namespace=str(context.get("namespace") or "default"),
        ssl=tls,
        token=token,
        server_hostname=cluster.get("tls-server-name") or None,
        credentials=credentials,
    )


def _entry(path: Path, found: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    entries = {str(entry.get("name")): entry for entry in found.get(section) or () if isinstance(entry, dict)}
    if name not in entries:
        singular = _SECTIONS[section]
        there = ", ".join(sorted(entries)) or "none"
        raise ConfigError(f"kubeconfig {path} has no {singular} {name!r}; it has {there}")
    return dict(entries[name].get(_SECTIONS[section]) or {})


def _content(folder: Path, section: dict[str, Any], field: str) -> bytes:
    if data := section.get(f"{field}-data"):
        return base64.b64decode(str(data), validate=True)
    if name := section.get(field):
        return (folder / str(name)).read_bytes()
    return b""


def _constant_token(value: str) -> Callable[[], Awaitable[str | None]]:
    async def token() -> str | None:
        return f"Bearer {value}" if value else None

    return token


def _token_of_file(path: Path) -> Callable[[], Awaitable[str | None]]:
    """A function that reads the token from the file at each call, because kubelets rotate it."""

    def read() -> str:
        return f"Bearer {path.read_text().strip()}"

    async def token() -> str | None:
        return read()

    return token


def _tls(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=credentials.authority.decode() or None)
    if credentials.certificate and credentials.key:
        # The ssl module reads these from a file only, so they are in a private one while it does.
        with tempfile.NamedTemporaryFile() as file:
            file.write(credentials.certificate + b"\n" + credentials.key)
            file.flush()
            context.load_cert_chain(file.name)
    if not credentials.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Ordinary kubeconfigs (kubeadm, kwok) have CAs without the key usage that Python 3.13 requires.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


async def load_officially(path: str, context: str | None) -> Config:
    """Read the configuration with the official client's loader, which supports all kinds. Raises ConfigError."""
    try:
        from kubernetes.aio import config as loader
        from kubernetes.aio.client.configuration import Configuration
    except ImportError as error:  # it is not in the image
        raise ConfigError(
            f"kubeconfig {path} names a plug-in, a proxy or several files; that needs the Python package kubernetes"
        ) from error

    load: Any = loader.load_kube_config
    list_contexts: Any = loader.list_kube_config_contexts
    settings: Any = Configuration()
    try:
        await load(config_file=path, context=context, client_configuration=settings)
        contexts, active = list_contexts(config_file=path)
        chosen = next((entry for entry in contexts if entry["name"] == context), active) if context else active
        credentials = Credentials(
            authority=_read(settings.ssl_ca_cert),
            certificate=_read(settings.cert_file),
            key=_read(settings.key_file),
            verify=bool(settings.verify_ssl),
        )
        tls = _tls(credentials) if settings.host.startswith("https") else False
    except (loader.ConfigException, OSError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path} can't be used: {error}; set KUBECONFIG or --context") from error

    async def token() -> str | None:
        value = settings.get_api_key_with_prefix("BearerToken")  # also refreshes the token of an exec plug-in
        found: str | None = await value if inspect.isawaitable(value) else value
        return found

    return Config(
        host=settings.host.rstrip("/"),
        namespace=str(chosen["context"].get("namespace") or "default"),
        ssl=tls,
        token=token,
        server_hostname=getattr(settings, "tls_server_name", None) or None,
        credentials=credentials,
    )


def _read(name: str | None) -> bytes:
    return Path(name).read_bytes() if name else b""
