"""The configuration of the API client: from a kubeconfig, else from the pod's service account.

Certificates and tokens, in one file, are read at once. Exec plugins, auth providers and several merged files are left
to the official client's loader, which takes 0.4 s of CPU time to import: a command line feels that on every call, and a
hub's members at every start.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import inspect
import os
import ssl
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from processhub.api.addresses import url_host
from processhub.cluster.config import Config, ConfigError, Credentials, Impersonation

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
    "proxy-url",
}
_PLAIN_USER = {
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
}
_PROXIES = ("http", "https")  # schemes of proxies that aiohttp knows
_SECTIONS = {"contexts": "context", "clusters": "cluster", "users": "user"}


async def read_config(
    context: str | None = None, kubeconfig: str | None = None, impersonation: Impersonation | None = None
) -> Config:
    """The configuration of ``kubeconfig``, $KUBECONFIG or ~/.kube/config, else of the pod.

    ``impersonation`` takes the place of the kubeconfig's own. Raises ConfigError.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG") or ""
    config = None if os.pathsep in named else _plain_or_of_pod(named, context)
    if config is None:
        config = await load_officially(named or str(DEFAULT_KUBECONFIG), context)
    return dataclasses.replace(config, impersonation=impersonation) if impersonation else config


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
        host=f"https://{url_host(host)}:{port}",
        namespace=namespace,
        ssl=context,
        token=_token_of_file(SERVICE_ACCOUNT / "token"),
        credentials=credentials,
    )


def _plain(path: Path, context_name: str | None) -> Config | None:
    """The configuration in the file, or None if it needs the official loader. Raises ConfigError."""
    try:
        found = _contents(path)
    except (OSError, ValueError) as error:
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
        impersonation=_impersonation(path, user),
        proxy=_proxy(path, server, str(cluster.get("proxy-url") or "")),
    )


def _impersonation(path: Path, user: dict[str, Any]) -> Impersonation:
    """The ``as`` fields of a kubeconfig's user. Raises ConfigError where they are not what kubectl knows."""
    groups, extra = user.get("as-groups") or (), user.get("as-user-extra") or {}
    if not isinstance(groups, list | tuple) or not isinstance(extra, dict):
        raise ConfigError(f"kubeconfig {path}: as-groups must be a list, and as-user-extra a mapping to lists")
    if (user.get("as-uid") or groups or extra) and not user.get("as"):
        raise ConfigError(f"kubeconfig {path}: as-uid, as-groups and as-user-extra need as, the user to impersonate")
    return Impersonation(
        user=str(user.get("as") or ""),
        groups=tuple(str(group) for group in groups),
        uid=str(user.get("as-uid") or ""),
        extra=tuple((str(key), tuple(str(value) for value in values or ())) for key, values in extra.items()),
    )


def _proxy(path: Path, server: str, given: str) -> str | None:
    """The proxy through which the server is reached, as kubectl finds it: proxy-url, else HTTPS_PROXY and NO_PROXY.

    Raises ConfigError where it is of a kind that can't be used.
    """
    url = urlsplit(server)
    where = "proxy-url"
    if not given and not urllib.request.proxy_bypass(url.hostname or ""):
        where, given = f"{url.scheme.upper()}_PROXY", urllib.request.getproxies().get(url.scheme, "")
    if not given:
        return None
    given = given if "://" in given else f"http://{given}"
    if urlsplit(given).scheme not in _PROXIES:
        raise ConfigError(f"kubeconfig {path}: {where} {given} can't be used; it must be an http:// or https:// proxy")
    return given


def _contents(path: Path) -> Any:
    """The YAML document in the file. Raises OSError, ValueError."""
    import yaml  # not in a pod, which has no kubeconfig

    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 safe either way
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


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
            f"kubeconfig {path} names a plug-in or several files; that needs the Python package kubernetes"
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
        user = _first(path, "users", str(chosen["context"].get("user") or ""))
        cluster = _first(path, "clusters", str(chosen["context"].get("cluster") or ""))
        host = settings.host.rstrip("/")
        impersonation = _impersonation(Path(path), user)
        proxy = _proxy(Path(path), host, str(cluster.get("proxy-url") or ""))
    except (loader.ConfigException, OSError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path} can't be used: {error}; set KUBECONFIG or --context") from error

    async def token() -> str | None:
        value = settings.get_api_key_with_prefix("BearerToken")  # also refreshes the token of an exec plug-in
        found: str | None = await value if inspect.isawaitable(value) else value
        return found

    return Config(
        host=host,
        namespace=str(chosen["context"].get("namespace") or "default"),
        ssl=tls,
        token=token,
        server_hostname=getattr(settings, "tls_server_name", None) or None,
        credentials=credentials,
        impersonation=impersonation,
        proxy=proxy,
    )


def _first(named: str, section: str, name: str) -> dict[str, Any]:
    """The entry of that name in the first of the merged files that has one, {} if none has.

    The official loader keeps only some fields of it.
    """
    for file in named.split(os.pathsep):
        path = Path(file).expanduser()
        if file and path.is_file():
            found = _contents(path) or {}
            with contextlib.suppress(ConfigError):
                return _entry(path, found, section, name)
    return {}


def _read(name: str | None) -> bytes:
    return Path(name).read_bytes() if name else b""
