"""Certificates: of authorities and of members. Pure functions of PEM texts and of the present time.

``cryptography`` is imported with this module, which only operators with TLS import.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED = 3600.0  # Seconds by which clocks of nodes may be late. Of a shorter lifetime, as long as that.
_SIGNING = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class CertificateProblem(Exception):  # noqa: N818 it is shown to the user as it is
    """A certificate, a key or a request can't be used. The message is a clause."""


class KeyPair(msgspec.Struct, frozen=True):
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str


class Names(msgspec.Struct, frozen=True):
    """What a member's certificate is valid for: DNS names, of which the first is the hub's, and IP addresses."""

    names: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class _Read(msgspec.Struct, frozen=True):
    """The fields of a certificate that decisions need."""

    begins: datetime
    ends: datetime
    public_key: bytes
    issuer_key: bytes  # The identifier of the key that signed it.
    names: Names


def new_authority(now: datetime, seconds: float) -> KeyPair:
    """A self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"processhub {now:%Y-%m-%dT%H:%M:%SZ}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = _usage(signs=True)
    made = (
        _builder(now, seconds)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return KeyPair(made.public_bytes(Encoding.PEM).decode(), private)


def check_authority(pair: KeyPair) -> KeyPair:
    """The pair with nothing but the authority's own certificate. Raises CertificateProblem if it can't sign others."""
    certificate, key = _load(pair)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise CertificateProblem("its certificate is not one of an authority (isCA)")
    if _spki(certificate.public_key()) != _spki(key.public_key()):
        raise CertificateProblem("its key is not the one of its certificate")
    return KeyPair(certificate.public_bytes(Encoding.PEM).decode(), pair.key)


def sign(authority: KeyPair, request: str, names: Names, now: datetime, seconds: float) -> str:
    """The certificate for the key of a request (PEM), valid for these names alone. Raises CertificateProblem.

    What the request itself names is of no account.
    """
    certificate, key = _load(authority)
    wanted = _request(request)
    if not is_valid(authority.certificate, now):
        raise CertificateProblem("the certificate of the authority that signs is not valid now")
    ends = min(now + timedelta(seconds=seconds), certificate.not_valid_after_utc)
    issuer = x509.SubjectKeyIdentifier(_key_identifier(authority.certificate))
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names.names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in names.addresses]
    builder = (
        _builder(now, seconds, ends)
        .subject_name(x509.Name([]))
        .issuer_name(certificate.subject)
        .public_key(wanted.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(wanted.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM).decode()


def good_for(certificate: str, request: str, authority: KeyPair, names: Names, now: datetime) -> float:
    """The seconds for which a member's certificate need not be replaced; 0 if it must be now.

    It is replaced when the last third of its lifetime begins, for another key, other names, another authority, or a
    clock that was wrong when it was signed. Raises CertificateProblem if the request can't be used.
    """
    wanted = _spki(_request(request).public_key())
    try:
        read = _read(certificate)
    except ValueError:
        return 0.0
    if read.public_key != wanted or read.names != names or read.issuer_key != _key_identifier(authority.certificate):
        return 0.0
    return _fresh(read, now)


def fresh_for(certificate: str, now: datetime) -> float:
    """The seconds until the last third of a certificate's lifetime begins; 0 if it has begun, or if it is not valid."""
    return _fresh(_read(certificate), now)


def is_valid(certificate: str, now: datetime) -> bool:
    """Whether it is within the lifetime of a certificate. One that can't be read has none."""
    try:
        read = _read(certificate)
    except ValueError:
        return False
    return read.begins <= now < read.ends


def _fresh(read: _Read, now: datetime) -> float:
    if now < read.begins:
        return 0.0
    return max(0.0, (read.ends - (read.ends - read.begins) / 3 - now).total_seconds())


def _builder(now: datetime, seconds: float, ends: datetime | None = None) -> x509.CertificateBuilder:
    begins = now - timedelta(seconds=min(_BACKDATED, seconds))
    ends = ends or now + timedelta(seconds=seconds)
    serial = x509.random_serial_number()
    return x509.CertificateBuilder().serial_number(serial).not_valid_before(begins).not_valid_after(ends)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@lru_cache(maxsize=16)
def _load(pair: KeyPair) -> tuple[x509.Certificate, _SIGNING]:
    """The first certificate, and the key. Raises CertificateProblem."""
    try:
        certificate = x509.load_pem_x509_certificates(pair.certificate.encode())[0]
        key = load_pem_private_key(pair.key.encode(), None)
    except (ValueError, TypeError, IndexError) as error:
        raise CertificateProblem("its certificate or key can't be read") from error
    if not isinstance(key, _SIGNING):
        raise CertificateProblem("its key is of a kind that signs no certificates")
    return certificate, key


@lru_cache(maxsize=4096)
def _request(text: str) -> x509.CertificateSigningRequest:
    """A request whose signature proves that the sender has the key. Raises CertificateProblem."""
    try:
        request = x509.load_pem_x509_csr(text.encode())
        valid = request.is_signature_valid and isinstance(request.public_key(), ec.EllipticCurvePublicKey)
    except (ValueError, InvalidSignature) as error:
        raise CertificateProblem("its request for a certificate can't be read") from error
    if not valid:
        raise CertificateProblem("its request for a certificate is not signed with an elliptic curve's key of its own")
    return request


@lru_cache(maxsize=4096)
def _read(text: str) -> _Read:
    """Parse a certificate. Raises ValueError."""
    certificate = x509.load_pem_x509_certificate(text.encode())
    names, addresses, issuer = [], [], b""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = extension.value.get_values_for_type(x509.DNSName)
            addresses = [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
        elif isinstance(extension.value, x509.AuthorityKeyIdentifier):
            issuer = extension.value.key_identifier or b""
    return _Read(
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        _spki(certificate.public_key()),
        issuer,
        Names(tuple(names), tuple(addresses)),
    )


@lru_cache(maxsize=64)
def _key_identifier(text: str) -> bytes:
    certificate = x509.load_pem_x509_certificate(text.encode())
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def sequence_of(*certificates: Sequence[str]) -> str:
    """The certificates, each once, as one PEM text."""
    seen = dict.fromkeys(text.strip() for texts in certificates for text in texts if text.strip())
    return "".join(f"{text}\n" for text in seen)
