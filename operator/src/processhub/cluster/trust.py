"""How the members of a hub are verified."""

from __future__ import annotations

import ssl

import aiohttp

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING")  # what was answered is not TLS


def trusting(authorities: str) -> ssl.SSLContext:
    """The TLS of connections to members whose certificates these authorities (PEM) signed, and no others.

    An authority may be an intermediate one, as those of cert-manager's issuers are: the one above it is not trusted.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authorities:
        context.load_verify_locations(cadata=authorities)
    return context


def tls_failure(error: BaseException, name: str) -> str:
    """A clause that says why a TLS connection to a member was not made; "" if the failure is another.

    ``name`` is the one that its certificate has to be valid for.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        why = getattr(cause, "verify_message", "") or str(cause)
        return f"its certificate is not valid for {name}: {why}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", "") or str(error.os_error)
        if reason in _NOT_TLS:
            return "it does not offer TLS, which its hub requires"
        return f"TLS with it failed: {reason}"
    return ""
