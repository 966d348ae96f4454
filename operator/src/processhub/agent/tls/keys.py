"""The private key of a member, and the request for its certificate.

The key never leaves the member's folder. A container that is started again in the same pod finds it there, so that its
certificate remains valid. ``cryptography`` is imported only here, for the agents of hubs with TLS.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def certificate_request(key_file: Path, name: str) -> str:
    """Make the key, unless the file has one; returns a certificate signing request for it (PEM). Raises OSError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

    key = None
    with contextlib.suppress(FileNotFoundError, ValueError):
        key = load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    subject = x509.SubjectAlternativeName([x509.DNSName(name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(subject, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _write(key_file: Path, text: bytes) -> None:
    new = key_file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    new.rename(key_file)
