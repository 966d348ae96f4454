"""kopf's credentials, from the same configuration that the API client uses."""

from __future__ import annotations

import kopf

from processhub.cluster.config import Config


async def connection_info(config: Config) -> kopf.ConnectionInfo:
    """The connection info with which kopf talks to the API server that ``config`` names."""
    token = await config.token()
    credentials = config.credentials
    scheme, _, secret = (token or "").partition(" ")
    return kopf.ConnectionInfo(
        server=config.host,
        ca_data=credentials.authority or None,
        certificate_data=credentials.certificate or None,
        private_key_data=credentials.key or None,
        insecure=not credentials.verify,
        scheme=scheme or None,
        token=secret or None,
        default_namespace=config.namespace,
    )
