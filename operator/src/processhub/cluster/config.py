"""Where the API server is and who we are there: a kubeconfig or a pod's service account.

The official client's loader reads both (exec plugins and token refresh included); only its result is used.
"""

from __future__ import annotations

import inspect
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_KUBECONFIG = Path("~/.kube/config").expanduser()


class ConfigError(Exception):
    """Neither a usable kubeconfig nor a service account; the message says what was looked for."""


@dataclass(frozen=True)
class Config:
    """An API server's address and how to authenticate there."""

    host: str
    namespace: str
    ssl: ssl.SSLContext | bool
    token: Callable[[], Awaitable[str | None]]  # the bearer header's whole value, fresh at each call
    server_hostname: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    insecure: bool = False


async def load_config(context: str | None = None, kubeconfig: str | None = None) -> Config:
    """The configuration of a kubeconfig (``kubeconfig``, $KUBECONFIG, ~/.kube/config), else of the pod.

    Raises ConfigError.
    """
    from kubernetes.aio import config as loader
    from kubernetes.aio.client.configuration import Configuration

    load_kube_config: Any = loader.load_kube_config
    load_incluster_config: Any = loader.load_incluster_config

    settings = Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG") or None
    try:
        if path or context or DEFAULT_KUBECONFIG.exists():
            await load_kube_config(config_file=path, context=context, client_configuration=settings)
            namespace = _context_namespace(loader, path, context)
        else:
            load_incluster_config(client_configuration=settings)
            namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except (loader.ConfigException, OSError) as error:
        raise ConfigError(
            f"no cluster to talk to: {error}; set KUBECONFIG or --context, or run in a pod with a service account"
        ) from error

    async def token() -> str | None:
        value = settings.get_api_key_with_prefix("BearerToken")  # also refreshes exec plugins' and projected tokens
        return await value if inspect.isawaitable(value) else value

    return Config(
        host=settings.host.rstrip("/"),
        namespace=namespace,
        ssl=_ssl_context(settings),
        token=token,
        server_hostname=getattr(settings, "tls_server_name", None) or None,
        ca_file=settings.ssl_ca_cert or None,
        certificate_file=settings.cert_file or None,
        key_file=settings.key_file or None,
        insecure=not settings.verify_ssl,
    )


def _context_namespace(loader: Any, path: str | None, context: str | None) -> str:
    contexts, active = loader.list_kube_config_contexts(config_file=path)
    chosen = next((entry for entry in contexts if entry["name"] == context), active) if context else active
    return str(chosen["context"].get("namespace") or "default")


def _ssl_context(settings: Any) -> ssl.SSLContext | bool:
    if not settings.host.startswith("https"):
        return False
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert or None)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    if not settings.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Ordinary kubeconfigs (kubeadm, kwok) carry CAs without the key usage that Python 3.13 insists on.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context
