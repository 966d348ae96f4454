"""TLS of a hub's members: who gets a certificate, and when requests without TLS are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from a_round import a_round
from certified import HOUR, authority
from cryptography import x509

from builders import make_hub, make_member, make_slice
from processhub.agent.tls.keys import certificate_request
from processhub.api.hub import TlsStatus
from processhub.api.kubernetes import Pod
from processhub.api.slice import RegistrySlice, SliceStatus, SliceTls, TlsReport
from processhub.controller.authority.keeper import AuthorityKeeper
from processhub.controller.authority.state import AuthorityState
from processhub.controller.execute.membertls import HubTls
from processhub.controller.observe.members import Member
from processhub.controller.settings import TlsSettings
from processhub.core.model.membership import Phase

HUB = make_hub("hub", namespace="n")
HOLDER = "pod-uid/nonce"
POD = msgspec.convert({"metadata": {"name": "hub-0", "namespace": "n"}, "status": {"podIP": "10.0.0.7"}}, Pod)


def keeper_of(state: AuthorityState | None, problem: str = "") -> AuthorityKeeper:
    client: Any = None
    keeper = AuthorityKeeper(client, "system", TlsSettings(certificate_seconds=HOUR), lambda: None)
    keeper.state, keeper.problem = state, problem
    return keeper


@pytest.fixture
def keeper() -> AuthorityKeeper:
    return keeper_of(AuthorityState(current=authority()))


def slice_0(name: str, spec: SliceTls = SliceTls(), report: TlsReport = TlsReport()) -> RegistrySlice:  # noqa: B008
    item = make_slice(member=name, status=SliceStatus(holder=HOLDER, address="10.0.0.7", tls=report))
    return msgspec.structs.replace(item, spec=msgspec.structs.replace(item.spec, tls=spec))


def member(name: str, item: RegistrySlice | None, phase: Phase = Phase.LIVE, **more: Any) -> Member:
    return make_member(name, *([item] if item is not None else []), holder=HOLDER, phase=phase, **more)


def tls_of(keeper: AuthorityKeeper | None, *members: Member, hub: Any = HUB) -> HubTls:
    return HubTls(a_round(hub, now=lambda: 0.0, events=object()), keeper, {each.name: each for each in members})


OFFERED = TlsReport(offered=True)
REQUIRED = SliceTls(authorities="a", required=True)


# When it is required.


def test_a_new_hub_requires_it_before_its_first_member_is_there(keeper: AuthorityKeeper) -> None:
    wanted, starts = member("hub-0", None, Phase.HELD), member("hub-1", make_slice(member="hub-1"))

    tls = tls_of(keeper, wanted, starts)

    assert tls.of(wanted) == tls.of(starts)
    assert tls.of(wanted) == SliceTls(authorities=keeper.trusted, required=True)
    assert tls.status == TlsStatus(required=True, server_name="hub.n.svc", authorities=keeper.trusted)


def test_a_hub_at_work_requires_it_when_its_last_member_accepts_it(keeper: AuthorityKeeper) -> None:
    offering = member("hub-0", slice_0("hub-0", report=OFFERED))
    without, restarting = member("hub-1", slice_0("hub-1")), member("hub-1", slice_0("hub-1"), Phase.HELD)

    for other in (without, restarting):
        tls = tls_of(keeper, offering, other)
        assert not tls.required
        assert not tls.of(offering).required
        assert tls.status is not None
        assert tls.status.message == "not required yet: hub-1 does not accept TLS yet"
    assert tls_of(keeper, offering, member("hub-1", slice_0("hub-1", report=OFFERED))).required
    assert tls_of(keeper, offering, member("hub-1", slice_0("hub-1"), Phase.GONE)).required


def test_it_remains_required_when_members_join_or_restart(keeper: AuthorityKeeper) -> None:
    before, joins = member("hub-0", slice_0("hub-0", REQUIRED)), member("hub-1", slice_0("hub-1"))

    tls = tls_of(keeper, before, joins)

    assert tls.of(joins).required
    assert tls.of(before).required


def test_while_the_authority_cannot_be_read_everything_stays_as_it_is() -> None:
    present = member("hub-0", slice_0("hub-0", REQUIRED, OFFERED))
    hub = make_hub("hub", namespace="n", status={"tls": {"required": True, "authorities": "a"}})

    joins = member("hub-1", None)

    tls = tls_of(keeper_of(None, "Secret x: forbidden"), present, joins, hub=hub)

    assert tls.of(present) == tls.of(joins) == REQUIRED
    assert tls.status == TlsStatus(
        required=True, server_name="hub.n.svc", authorities="a", message="Secret x: forbidden"
    )


def test_where_it_is_turned_off_nothing_of_it_is_left() -> None:
    present = member("hub-0", slice_0("hub-0", REQUIRED, OFFERED))

    tls = tls_of(None, present)

    assert tls.of(present) == SliceTls()
    assert tls.status is None


# Who gets a certificate.


def test_a_member_gets_one_for_its_pod_and_keeps_it(keeper: AuthorityKeeper, tmp_path: Path) -> None:
    report = TlsReport(request=certificate_request(tmp_path / "key", "x"))
    asks = member("hub-0", slice_0("hub-0", report=report), pod=POD)

    first = tls_of(keeper, asks).of(asks)
    has = member("hub-0", slice_0("hub-0", first, report), pod=POD)

    assert names_in(first.certificate) == {
        "hub.n.svc", "hub.n.svc.cluster.local", "hub-0.hub-members.n.svc", "10.0.0.7",
    }  # fmt: skip
    assert tls_of(keeper, has).of(has) == first


def test_a_member_whose_address_has_changed_gets_another(keeper: AuthorityKeeper, tmp_path: Path) -> None:
    report = TlsReport(request=certificate_request(tmp_path / "key", "x"))
    asks = member("hub-0", slice_0("hub-0", report=report), pod=POD)
    first = tls_of(keeper, asks).of(asks)
    moved = msgspec.structs.replace(POD, status=msgspec.structs.replace(POD.status, pod_ip="10.0.0.8"))
    has = member("hub-0", slice_0("hub-0", first, report), pod=moved)

    assert "10.0.0.8" in names_in(tls_of(keeper, has).of(has).certificate)


def test_a_former_holder_of_the_members_lease_gets_none(keeper: AuthorityKeeper, tmp_path: Path) -> None:
    report = TlsReport(request=certificate_request(tmp_path / "key", "x"))
    former = make_member("hub-0", slice_0("hub-0", report=report), holder="another/agent")

    assert tls_of(keeper, former).of(former).certificate == ""


def test_a_request_that_cannot_be_read_is_said_of_its_member_alone(keeper: AuthorityKeeper, tmp_path: Path) -> None:
    bad = member("hub-0", slice_0("hub-0", report=TlsReport(request="rubbish")))
    good = member("hub-1", slice_0("hub-1", report=TlsReport(request=certificate_request(tmp_path / "key", "x"))))

    tls = tls_of(keeper, bad, good)

    assert tls.of(bad).certificate == ""
    assert tls.of(good).certificate
    assert tls.status is not None
    assert tls.status.message.startswith("member hub-0: its request for a certificate can't be read")


def names_in(certificate: str) -> set[str]:
    extensions = x509.load_pem_x509_certificate(certificate.encode()).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}
