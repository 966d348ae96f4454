"""The authority that signs members' certificates: what it signs, and how it is replaced."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from certified import authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from memoryapi import Key, MemoryApi, MemoryClient, Wire

from processhub.agent.tls.keys import certificate_request
from processhub.cluster import timestamps
from processhub.controller.authority.certificates import (
    CertificateProblem,
    KeyPair,
    Names,
    check_authority,
    good_for,
    new_authority,
    sign,
)
from processhub.controller.authority.keeper import SECRET, AuthorityKeeper
from processhub.controller.authority.state import AuthorityState, advance
from processhub.controller.settings import TlsSettings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = 86400.0
EMPTY_REQUEST = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
NAMES = Names(("hub.n.svc",), ("10.0.0.7",))


def at(days: float = 0.0, seconds: float = 0.0) -> datetime:
    return NOW + timedelta(days=days, seconds=seconds)


@pytest.fixture
def request_(tmp_path: Any) -> str:
    return certificate_request(tmp_path / "key", "anything.the.member.likes")


def read(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def issued_by(key: Any, *, ca: bool = True) -> KeyPair:
    """An authority with a key of another kind, as an issuer of cert-manager may make it; without identifiers."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "theirs")])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = (
        x509.CertificateBuilder()
        .serial_number(7)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(at(-1))
        .not_valid_after(at(365))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, digest)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return KeyPair(made.public_bytes(Encoding.PEM).decode(), private)


# What is signed.


def test_a_certificate_is_for_the_names_that_the_operator_knows_and_not_for_those_requested(request_: str) -> None:
    signer = new_authority(NOW, 365 * DAY)

    made = read(sign(signer, request_, NAMES, NOW, 7 * DAY))

    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.n.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.not_valid_after_utc == at(7)
    assert made.not_valid_before_utc == at(seconds=-3600), "clocks of nodes may be late"
    made.verify_directly_issued_by(read(signer.certificate))


def test_an_authority_that_has_ended_signs_nothing(request_: str) -> None:
    with pytest.raises(CertificateProblem, match="the authority that signs is not valid now"):
        sign(new_authority(NOW, DAY), request_, NAMES, at(2), DAY)


def test_no_certificate_outlives_its_authority(request_: str) -> None:
    signer = new_authority(NOW, 30 * DAY)

    assert read(sign(signer, request_, NAMES, at(29), 7 * DAY)).not_valid_after_utc == at(30)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["rsa", "ed25519", "p384"],
)
def test_an_authority_of_any_kind_signs(request_: str, make: Callable[[], Any]) -> None:
    signer = check_authority(issued_by(make()))

    certificate = sign(signer, request_, NAMES, NOW, DAY)

    read(certificate).verify_directly_issued_by(read(signer.certificate))
    assert good_for(certificate, request_, signer, NAMES, NOW) > 0


@pytest.mark.parametrize("text", ["", "no request", EMPTY_REQUEST], ids=["empty", "text", "cut off"])
def test_a_request_that_cannot_be_read_is_no_crash(text: str) -> None:
    with pytest.raises(CertificateProblem, match="its request for a certificate can't be read"):
        sign(authority(), text, NAMES, NOW, DAY)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (KeyPair("", ""), "can't be read"),
        (KeyPair(authority().certificate, "no key"), "can't be read"),
        (KeyPair(authority().certificate, authority().key), "its key is not the one of its certificate"),
        (issued_by(ec.generate_private_key(ec.SECP256R1()), ca=False), "not one of an authority"),
    ],
    ids=["empty", "no key", "another key", "no authority"],
)
def test_what_cannot_sign_is_refused_with_a_reason(pair: KeyPair, why: str) -> None:
    with pytest.raises(CertificateProblem, match=why):
        check_authority(pair)


# When a certificate is replaced.


def test_a_certificate_is_replaced_in_the_last_third_of_its_lifetime(request_: str) -> None:
    signer = new_authority(NOW, 365 * DAY)
    certificate = sign(signer, request_, NAMES, NOW, 6 * DAY)

    def left(now: datetime) -> float:
        return good_for(certificate, request_, signer, NAMES, now)

    assert left(NOW) == pytest.approx(4 * DAY, abs=3600)
    assert left(at(3.5)) > 0
    assert left(at(4.1)) == 0
    assert left(at(-1)) == 0, "signed by a clock that was ahead: nobody would take it yet"


def test_a_certificate_is_replaced_for_another_key_name_address_or_authority(request_: str, tmp_path: Any) -> None:
    signer = new_authority(NOW, 365 * DAY)
    certificate = sign(signer, request_, NAMES, NOW, DAY)
    another = certificate_request(tmp_path / "another", "x")

    assert good_for(certificate, request_, signer, NAMES, NOW) > 0
    assert good_for(certificate, another, signer, NAMES, NOW) == 0
    assert good_for(certificate, request_, signer, Names(("hub.n.svc",), ("10.0.0.8",)), NOW) == 0
    assert good_for(certificate, request_, new_authority(NOW, DAY), NAMES, NOW) == 0
    assert good_for("no certificate", request_, signer, NAMES, NOW) == 0


# How an authority is replaced.


def step(state: AuthorityState | None, now: datetime, given: KeyPair | None = None, *, self_made: bool = True) -> Any:
    return advance(state, given, now, 30 * DAY, self_made=self_made)


def test_a_new_authority_is_trusted_before_it_signs_and_the_old_one_until_it_ends() -> None:
    first = step(None, NOW)
    assert step(first, at(19)) == first
    both = step(first, at(20.5))
    assert both.current == first.current, "members that have not read the new one yet would refuse what it signs"
    assert both.trusted == first.current.certificate + both.next.certificate
    assert step(both, at(20.5, seconds=599)) == both
    turned = step(both, at(20.5, seconds=601))
    assert turned.current == both.next
    assert turned.trusted == both.next.certificate + first.current.certificate
    assert step(turned, at(29.9)).retired == (first.current.certificate,)
    assert step(turned, at(30.1)).retired == ()


def test_an_authority_that_has_ended_is_replaced_at_once() -> None:
    ended = step(None, NOW)

    again = step(ended, at(40))

    assert again.current != ended.current
    assert step(again, at(40)).trusted == again.current.certificate


def test_an_authority_from_a_clock_that_was_ahead_is_replaced_at_once() -> None:
    ahead = step(None, at(1000))

    assert step(ahead, NOW).current != ahead.current


def test_a_clock_that_is_set_back_delays_no_change() -> None:
    both = step(step(None, NOW), at(21))

    assert step(both, at(20.9)).current == both.next


def test_an_issuer_replaces_the_authority_with_an_overlap_too() -> None:
    theirs, renewed = new_authority(NOW, 30 * DAY), new_authority(at(20), 30 * DAY)
    assert step(None, NOW, self_made=False) is None
    first = step(None, NOW, theirs, self_made=False)
    assert (first.current, step(first, at(25), theirs, self_made=False)) == (theirs, first), "the issuer renews it"

    both = step(first, at(20), renewed, self_made=False)
    turned = step(both, at(20, seconds=601), renewed, self_made=False)

    assert both.current == theirs
    assert turned.current == renewed
    assert theirs.certificate in turned.trusted


# Where it is kept.


@contextmanager
def clock_at(now: datetime) -> Iterator[None]:
    timestamps.use_clock(lambda: now)
    try:
        yield
    finally:
        timestamps.use_clock(lambda: datetime.now(UTC))


def keeper_on(api: MemoryApi, settings: TlsSettings = TlsSettings()) -> tuple[AuthorityKeeper, list[None]]:  # noqa: B008
    changed: list[None] = []
    return AuthorityKeeper(MemoryClient(api, Wire()), "ns", settings, lambda: changed.append(None)), changed


def kept(api: MemoryApi, name: str = SECRET) -> dict[str, str]:
    return {key: b64decode(value).decode() for key, value in api.get("secrets", name)["data"].items()}


def put(api: MemoryApi, pair: KeyPair, name: str = SECRET) -> None:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    data = {key: b64encode(text.encode()).decode() for key, text in texts.items()}
    api.create("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


async def test_the_next_leader_signs_with_the_authority_of_the_one_before() -> None:
    api = MemoryApi()
    (first, changed), (second, _) = keeper_on(api), keeper_on(api)

    await first.look()
    await second.look()
    await first.look()

    assert first.state is not None
    assert first.state == second.state
    assert len(changed) == 1
    assert kept(api)["ca.crt"] == first.trusted


async def test_a_change_of_authorities_goes_on_under_the_next_leader() -> None:
    api = MemoryApi()
    (first, _), (second, _) = keeper_on(api), keeper_on(api)
    with clock_at(NOW):
        await first.look()
    with clock_at(at(300)):
        await first.look()
        await second.look()

    assert first.state is not None
    assert first.state.next is not None
    assert second.state == first.state
    with clock_at(at(300, seconds=700)):
        await second.look()
    assert second.state is not None
    assert second.state.current == first.state.next
    assert second.state.retired == (first.state.current.certificate,)


async def test_a_secret_that_is_deleted_is_put_back() -> None:
    api = MemoryApi()
    keeper, _ = keeper_on(api)
    await keeper.look()
    before = kept(api)

    api.delete("secrets", SECRET)
    await keeper.look()

    assert kept(api) == before


async def test_an_authority_of_ones_own_is_used_and_a_later_one_replaces_it_with_an_overlap() -> None:
    api, theirs, later = MemoryApi(), authority(), authority()
    put(api, theirs)
    keeper, _ = keeper_on(api)
    await keeper.look()
    assert keeper.state is not None
    assert keeper.state.current == theirs

    api.delete("secrets", SECRET)
    put(api, later)
    await keeper.look()

    assert keeper.state == msgspec.structs.replace(keeper.state, current=theirs, next=later)
    assert later.certificate in kept(api)["ca.crt"]


async def test_a_secret_that_cannot_be_used_is_said_and_changes_nothing() -> None:
    api = MemoryApi()
    put(api, KeyPair("no certificate", "no key"))
    keeper, changed = keeper_on(api)

    await keeper.look()

    assert keeper.state is None
    assert keeper.problem.startswith(f"Secret {SECRET} in namespace ns: its certificate or key can't be read")
    assert len(changed) == 1


@pytest.mark.parametrize(("key", "text"), [("retired.crt", "rubbish"), ("next.since", "2026-05-01T00:00:00")])
async def test_what_somebody_wrote_beside_the_authority_does_not_end_the_leader(key: str, text: str) -> None:
    api = MemoryApi()
    (first, _), (second, _) = keeper_on(api), keeper_on(api)
    await first.look()
    written = b64encode(text.encode()).decode()
    api.update(Key("secrets", "ns", SECRET), lambda secret: secret["data"].update({key: written}))

    await second.look()

    assert second.state == first.state
    assert second.problem == ""


async def test_an_authority_of_cert_manager_is_awaited_and_then_copied() -> None:
    api, theirs = MemoryApi(), authority()
    keeper, _ = keeper_on(api, TlsSettings(secret="issued"))
    await keeper.look()
    awaited = "does not exist yet; cert-manager makes it by the issuer of tls.issuerRef"
    assert keeper.problem == f"Secret issued in namespace ns {awaited}"

    put(api, theirs, "issued")
    await keeper.look()

    assert keeper.state is not None
    assert (keeper.state.current, keeper.problem) == (theirs, "")
