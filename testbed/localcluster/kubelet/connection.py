"""The kubelet's own connection to the API server, from a kubeconfig with certificates.

The product's loader also imports the official client, which costs two seconds of start; this module reads the few
fields.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from processhub.cluster.config import Config


@dataclass(frozen=True)
class Server:
    """The API server's address and the administrator's certificates."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path

    def client_config(self) -> Config:
        """The configuration for ``processhub.cluster.client.Client``."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certificate, self.key)
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)

        async def token() -> str | None:
            return None

        return Config(host=f"https://{self.host}:{self.port}", namespace="default", ssl=context, token=token)

    def serving_context(self) -> ssl.SSLContext:
        """The TLS context of the kubelet's HTTPS server: it accepts only certificates of the cluster's CA."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        context.load_cert_chain(self.certificate, self.key)
        return context


def read_kubeconfig(path: Path) -> Server:
    """The server of the kubeconfig's only cluster. Raises KeyError if a field is missing."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    address = urlsplit(cluster["server"])
    if not address.hostname or not address.port:
        raise KeyError(f"{path}: no host and port in {cluster['server']}")
    return Server(
        host=address.hostname,
        port=address.port,
        ca=Path(cluster["certificate-authority"]),
        certificate=Path(user["client-certificate"]),
        key=Path(user["client-key"]),
    )
