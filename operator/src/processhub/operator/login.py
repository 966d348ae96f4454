"""kopf's credentials, from the same configuration that the client uses."""

from __future__ import annotations

import kopf

from processhub.cluster.config import Config


async def connection_info(config: Config) -> kopf.ConnectionInfo:
    """What kopf needs to talk to the API server that ``config`` names."""
    token = await config.token()
    scheme, _, secret = (token or "").partition(" ")
    return kopf.ConnectionInfo(
        server=config.host,
        ca_path=config.ca_file,
        certificate_path=config.certificate_file,
        private_key_path=config.key_file,
        insecure=config.insecure,
        scheme=scheme or None,
        token=secret or None,
        default_namespace=config.namespace,
    )
