"""The configuration of the API client: from a kubeconfig, else from the pod's service account.

Several files are merged as kubectl does. Only auth providers are left to the official client's loader, which takes
0.4 s of CPU time to import: a command line feels that on every call, and a hub's members at every start. That loader
knows no certificates of exec plug-ins, and does not keep their credentials until they expire.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import inspect
import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from processhub.api.addresses import url_host
from processhub.cluster.config import Config, ConfigError, Credentials, Impersonation, Overrides
from processhub.cluster.execplugin import ExecPlugin, load_certificate

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PROXIES = ("http", "https")  # schemes of proxies that aiohttp knows
_PORTS = {"http": 80, "https": 443}
_SECTIONS = {"contexts": "context", "clusters": "cluster", "users": "user"}


def _default_kubeconfig() -> Path:
    path = Path("~/.kube/config")
    try:
        return path.expanduser()
    except RuntimeError:  # A user that the cluster chose has no home where HOME is not set.
        return Path("/") / path.relative_to("~")


DEFAULT_KUBECONFIG = _default_kubeconfig()


async def read_config(
    context: str | None = None,
    kubeconfig: str | None = None,
    overrides: Overrides | None = None,
    *,
    pod_first: bool = False,
) -> Config:
    """The configuration of ``kubeconfig``, $KUBECONFIG or ~/.kube/config, else of the pod.

    ``pod_first``: the pod comes before ~/.kube/config, which may be in the image, and the pod of a member or of the
    operator also before $KUBECONFIG, which may be for another cluster that children work with. ``overrides`` come
    before the kubeconfig's own fields. Raises ConfigError.
    """
    given = overrides or Overrides()
    named, files = ("", []) if pod_first and _is_pod_of_ours() else _files(kubeconfig)
    if not files and not given.server:
        config = _of_pod()
    else:
        config = await _of_files(named, files, context, given)
    return dataclasses.replace(
        config, impersonation=given.impersonation or config.impersonation, request_timeout=given.request_timeout
    )


def _is_pod_of_ours() -> bool:
    """Whether there is a service account, and $KUBECONFIG does not come before it.

    It does in a process that is in no pod of ours, but on a machine that is a pod itself, as some of CI are.
    """
    try:
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except (OSError, ValueError):
        return False
    own = namespace in (os.environ.get("HUB_NAMESPACE"), os.environ.get("POD_NAMESPACE"))
    return (own or not os.environ.get("KUBECONFIG")) and (SERVICE_ACCOUNT / "token").exists()


def _files(kubeconfig: str | None) -> tuple[str, list[Path]]:
    """The kubeconfig as it was named, and its files that exist. Raises ConfigError."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or ""
    paths = [Path(name) for name in named.split(os.pathsep) if name]
    files = [file for path in paths if (file := _existing(path))]
    if not paths and os.path.isfile(DEFAULT_KUBECONFIG):  # noqa: PTH113 false also for one that may not be looked at
        files = [DEFAULT_KUBECONFIG]
    if not files and named:
        raise ConfigError(f"kubeconfig {named} not found; name one that exists with --kubeconfig or KUBECONFIG")
    return os.pathsep.join(map(str, files)), files


def _existing(path: Path) -> Path | None:
    """The file that a user has named, or None if there is none. Raises ConfigError."""
    try:
        file = path.expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError) as error:  # RuntimeError: ~user, and there is no such user
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"kubeconfig {str(path)[:300]} can't be read: {why}") from error


def _of_pod() -> Config:
    """The configuration from the service account that Kubernetes mounts into a pod. Raises ConfigError."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError(
            f"no cluster to talk to: there is no {DEFAULT_KUBECONFIG}, and this is no pod; "
            "set KUBECONFIG or --kubeconfig"
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


async def _of_files(named: str, files: list[Path], context_name: str | None, given: Overrides) -> Config:
    """The configuration of the merged files. Raises ConfigError."""
    merged = _merge(named, files)
    name = context_name or merged.current
    if not name and not given.server:
        raise ConfigError(f"kubeconfig {merged.named} has no current-context; name one with --context")
    context = merged.entry("contexts", name).content if name else {}
    cluster_name, user_name = given.cluster or str(context.get("cluster") or ""), given.user or context.get("user")
    cluster = merged.entry("clusters", cluster_name) if cluster_name or not given.server else _Section()
    user = merged.entry("users", str(user_name)) if user_name else _Section()
    cluster = _overridden(cluster, given)
    if not cluster.content.get("server"):
        raise ConfigError(f"kubeconfig {merged.named}: cluster {cluster_name} has no server; write its URL")
    namespace = str(context.get("namespace") or "default")
    if "auth-provider" in user.content and not given.token:
        if given.server or given.cluster or given.user or given.certificate_authority or given.insecure_skip_tls_verify:
            raise ConfigError(
                f"kubeconfig {named}: its user has an auth-provider, with which the cluster and the user of the context"
                " are used; leave out --server, --cluster, --user and the options for certificates"
            )
        official = await load_officially(named, context_name)
        return dataclasses.replace(official, namespace=namespace)
    try:
        return await _plain(merged.named, cluster, user, given.token, namespace)
    except (OSError, ValueError, binascii.Error) as error:
        raise ConfigError(f"kubeconfig {merged.named}, context {name}: credentials can't be read: {error}") from error


def _overridden(cluster: _Section, given: Overrides) -> _Section:
    """The cluster with the fields that a command line gives."""
    content = dict(cluster.content)
    if given.server:
        content["server"] = given.server
    if given.tls_server_name:
        content["tls-server-name"] = given.tls_server_name
    if given.certificate_authority:
        content.pop("certificate-authority-data", None)
        content["certificate-authority"] = str(Path(given.certificate_authority).expanduser().absolute())
    if given.insecure_skip_tls_verify:
        content["insecure-skip-tls-verify"] = True
    return _Section(cluster.folder, content)


async def _plain(named: str, cluster: _Section, user: _Section, given_token: str, namespace: str) -> Config:
    """The configuration by a cluster and a user. Raises OSError, ValueError, ConfigError."""
    server = str(cluster.content["server"]).rstrip("/")
    server = server if "://" in server else f"http://{server}"  # as client-go reads it
    credentials = Credentials(
        authority=_content(cluster, "certificate-authority"),
        certificate=_content(user, "client-certificate"),
        key=_content(user, "client-key"),
        verify=not cluster.content.get("insecure-skip-tls-verify"),
    )
    token = given_token or str(user.content.get("token") or "")
    bearer = _constant_token(token)
    plugin = None
    if not token and user.content.get("tokenFile"):
        token_file = user.folder / str(user.content["tokenFile"])
        token_file.read_text()
        bearer = _token_of_file(token_file)
    elif not token and user.content.get("exec"):
        plugin = ExecPlugin(
            named, user.folder, user.content["exec"], {**cluster.content, "server": server}, credentials
        )
        found = await plugin.credential()
        if found.certificate:
            credentials = dataclasses.replace(credentials, certificate=found.certificate, key=found.key)
        bearer = plugin.authorization
    tls = _tls(credentials) if server.startswith("https") else False
    if plugin is not None and isinstance(tls, ssl.SSLContext):
        plugin.use(tls)
    return Config(
        host=server,
        namespace=namespace,
        ssl=tls,
        token=bearer,
        server_hostname=cluster.content.get("tls-server-name") or None,
        credentials=credentials,
        impersonation=_impersonation(named, user.content),
        proxy=_proxy(named, server, str(cluster.content.get("proxy-url") or "")),
    )


def _impersonation(path: str, user: Mapping[str, Any]) -> Impersonation:
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


def _proxy(path: str, server: str, given: str) -> str | None:
    """The proxy through which the server is reached, as kubectl finds it: proxy-url, else HTTPS_PROXY and NO_PROXY.

    Raises ConfigError where it is of a kind that can't be used.
    """
    url = urlsplit(server)
    where = "proxy-url"
    if not given and not _goes_without_proxy(url):
        where, given = f"{url.scheme.upper()}_PROXY", urllib.request.getproxies().get(url.scheme, "")
    if not given:
        return None
    given = given if "://" in given else f"http://{given}"
    scheme, rest = given.split("://", 1)
    if scheme.lower() not in _PROXIES:
        shown = f"{scheme}://{rest.rpartition('@')[2]}"  # without a password
        raise ConfigError(f"kubeconfig {path}: {where} {shown} can't be used; it must be an http:// or https:// proxy")
    return given


def _goes_without_proxy(url: SplitResult) -> bool:
    """Whether the environment has no proxy for this server, as kubectl reads it. This machine never has one."""
    host, port = url.hostname or "", _PORTS.get(url.scheme, 0)
    with contextlib.suppress(ValueError):  # no number: the first connection says so
        port = url.port or port
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    listed = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    if not listed:
        return bool(urllib.request.proxy_bypass(host))  # which is in the settings of some systems
    return any(_names(entry.strip().lower(), host, port, address) for entry in listed.split(","))


def _names(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    """Whether an entry of NO_PROXY names the host: ``*``, a network, or a name or address with or without a port.

    A name stands for all below it too, ``.corp`` and ``*.corp`` for these alone.
    """
    if "/" in entry:
        with contextlib.suppress(ValueError):
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
    name, _, number = entry.rpartition(":")
    if number.isdecimal() and name and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        entry = name
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(entry.strip("[]")) == address
    above = entry if entry.startswith(".") else entry[1:] if entry.startswith("*.") else f".{entry}"
    return bool(entry) and (entry in ("*", host) or host.endswith(above))


class _Section(NamedTuple):
    """A context, cluster or user, and the folder of the file that it is from: paths in it are relative to that."""

    folder: Path = Path()
    content: Mapping[str, Any] = MappingProxyType({})


class _Merged(NamedTuple):
    """The kubeconfig that several files make. Of entries with one name, that of the first file counts."""

    named: str
    current: str
    sections: dict[str, dict[str, _Section]]

    def entry(self, section: str, name: str) -> _Section:
        """The entry with this name. Raises ConfigError."""
        entries = self.sections[section]
        if name not in entries:
            there = ", ".join(sorted(entries)) or "none"
            raise ConfigError(f"kubeconfig {self.named} has no {_SECTIONS[section]} {name!r}; it has {there}")
        return entries[name]


def _merge(named: str, files: list[Path]) -> _Merged:
    """Merge the files as kubectl does. Raises ConfigError."""
    current = ""
    sections: dict[str, dict[str, _Section]] = {section: {} for section in _SECTIONS}
    for path in files:
        found = _contents(path)
        current = current or str(found.get("current-context") or "")
        for section, singular in _SECTIONS.items():
            entries = found.get(section) or []
            if not isinstance(entries, list):
                raise ConfigError(f"kubeconfig {path}: {section} must be a list, not a {type(entries).__name__}")
            for entry in entries:
                if isinstance(entry, dict):
                    content = entry.get(singular)
                    own = _Section(path.parent, content if isinstance(content, dict) else {})
                    sections[section].setdefault(str(entry.get("name")), own)
    return _Merged(named, current, sections)


def _contents(path: Path) -> dict[str, Any]:
    """The kubeconfig in the file. Raises ConfigError."""
    import yaml  # not in a pod, which has no kubeconfig

    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 safe either way
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: a wrong date, text that is not UTF-8
        raise ConfigError(f"kubeconfig {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"kubeconfig {path} is not a kubeconfig: it contains a {type(found).__name__}, not a mapping")
    return found


def _content(entry: _Section, field: str) -> bytes:
    if data := entry.content.get(f"{field}-data"):
        return base64.b64decode(str(data), validate=True)
    if name := entry.content.get(field):
        return (entry.folder / str(name)).read_bytes()
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
        load_certificate(context, credentials.certificate, credentials.key)
    if not credentials.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Ordinary kubeconfigs (kubeadm, kwok) have CAs without the key usage that Python 3.13 requires.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


async def load_officially(path: str, context: str | None) -> Config:
    """Read the configuration with the official client's loader, which knows auth providers. Raises ConfigError."""
    try:
        from kubernetes.aio import config as loader
        from kubernetes.aio.client.configuration import Configuration
    except ImportError as error:  # The image and the bare package do not have it.
        raise ConfigError(
            f"kubeconfig {path} names an auth-provider; that needs the Python package kubernetes: "
            "pip install kubernetes"
        ) from error

    load: Any = loader.load_kube_config
    settings: Any = Configuration()
    merged = _merge(path, [Path(name) for name in path.split(os.pathsep)])
    chosen = merged.entry("contexts", context or merged.current).content
    try:
        await load(config_file=path, context=context, client_configuration=settings)
        credentials = Credentials(
            authority=_read(settings.ssl_ca_cert),
            certificate=_read(settings.cert_file),
            key=_read(settings.key_file),
            verify=bool(settings.verify_ssl),
        )
        tls = _tls(credentials) if settings.host.startswith("https") else False
    except (loader.ConfigException, OSError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path} can't be used: {error}; set KUBECONFIG or --context") from error
    host = settings.host.rstrip("/")
    # The official loader keeps only some fields of these.
    user = merged.entry("users", str(chosen.get("user") or "")).content
    cluster = merged.entry("clusters", str(chosen.get("cluster") or "")).content

    async def token() -> str | None:
        value = settings.get_api_key_with_prefix("BearerToken")  # also refreshes it
        found: str | None = await value if inspect.isawaitable(value) else value
        return found

    return Config(
        host=host,
        namespace=str(chosen.get("namespace") or "default"),
        ssl=tls,
        token=token,
        server_hostname=getattr(settings, "tls_server_name", None) or None,
        credentials=credentials,
        impersonation=_impersonation(path, user),
        proxy=_proxy(path, host, str(cluster.get("proxy-url") or "")),
    )


def _read(name: str | None) -> bytes:
    return Path(name).read_bytes() if name else b""
