"""How members get their certificates, with operator and agents in one thread and a simulated clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster

from processhub.controller.settings import TlsSettings

MEMBERS = ("hub-0", "hub-1")
HOURS = TlsSettings(certificate_seconds=3600, ca_seconds=36000)
SECONDS = TlsSettings(certificate_seconds=60, ca_seconds=120)


def slice_of(cluster: Cluster, member: str) -> Json:
    return cluster.api.get("registryslices", f"hub.{member}.0")


def ordered(cluster: Cluster, field: str) -> list[object]:
    """A field of spec.tls of all members."""
    return [slice_of(cluster, member)["spec"]["tls"][field] for member in MEMBERS]


def hub_tls(cluster: Cluster) -> Json:
    found: Json = cluster.api.get("hubs", "hub").get("status", {}).get("tls", {})
    return found


def encrypted(cluster: Cluster) -> bool:
    """Whether all members have a certificate, offer TLS and require it."""
    if not all(Key("registryslices", "ns", f"hub.{member}.0") in cluster.api.objects for member in MEMBERS):
        return False
    offered = [slice_of(cluster, member).get("status", {}).get("tls", {}).get("offered") for member in MEMBERS]
    return all((*offered, *ordered(cluster, "required"), *ordered(cluster, "certificate"), hub_tls(cluster)))


def live(folder: Path, life: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = Cluster(folder)
        cluster.begin({"members": {"replicas": 2}})
        spec = {"hub": "hub", "exec": {"command": ["x"]}}
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": spec})
        await life(cluster)
        await cluster.end()

    virtualtime.run(main())


async def leads(cluster: Cluster, name: str, tls: TlsSettings | None) -> None:
    """Have this replica lead in the place of the others."""
    for other in list(cluster.stops):
        if other in cluster.tasks:
            cluster.stops[other].set()
            await cluster.tasks.pop(other)
    before = cluster.api.objects.get(Key("leases", "ns", "processhub-operator"))
    cluster.start_replica(name, tls)
    await cluster.until(
        lambda: cluster.api.objects.get(Key("leases", "ns", "processhub-operator")) != before, f"{name} leads"
    )


def test_a_new_hub_is_encrypted_from_the_start(tmp_path: Path) -> None:
    async def life(cluster: Cluster) -> None:
        await leads(cluster, "operator-0", HOURS)
        await cluster.until(lambda: encrypted(cluster), "TLS")
        await cluster.until(lambda: cluster.reported_running("a"), "the child runs")

        named = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
        written = [item for _, _, key, item in cluster.api.writes if key.plural == "registryslices"]
        assert len(named) == 2
        assert all(item["spec"]["tls"]["required"] for item in written), "no slice ever allowed plain HTTP"
        config_map = cluster.api.get("configmaps", "processhub-hub-ca")
        assert config_map["data"]["ca.crt"] == hub_tls(cluster)["authorities"]

    live(tmp_path, life)


def test_a_hub_at_work_is_encrypted_without_a_restart_and_back(tmp_path: Path) -> None:
    async def life(cluster: Cluster) -> None:
        await leads(cluster, "operator-0", None)
        await cluster.until(lambda: cluster.reported_running("a"), "the child runs")
        starts = list(cluster.log)

        await leads(cluster, "operator-1", HOURS)
        await cluster.until(lambda: encrypted(cluster), "TLS")
        before = [item["spec"]["tls"] for _, _, key, item in cluster.api.writes if key.plural == "registryslices"]
        by_required = [order["required"] for order in before if order["authorities"]]
        assert False in by_required
        assert by_required == sorted(by_required), "not required before all offer it, and from then on"

        await leads(cluster, "operator-2", None)
        await cluster.until(lambda: not any(ordered(cluster, "authorities")), "no TLS")
        await cluster.until(lambda: not hub_tls(cluster), "the Hub says so")
        assert cluster.log == starts, "no child was restarted"

    live(tmp_path, life)


def test_the_next_leader_leaves_the_certificates_and_an_agent_that_starts_again_gets_one(tmp_path: Path) -> None:
    async def life(cluster: Cluster) -> None:
        await leads(cluster, "operator-0", HOURS)
        await cluster.until(lambda: encrypted(cluster), "TLS")
        before = ordered(cluster, "certificate")

        await leads(cluster, "operator-1", HOURS)
        await asyncio.sleep(30)
        assert ordered(cluster, "certificate") == before

        cluster.agents["hub-0"].terminate()
        await cluster.tasks.pop("hub-0")
        (tmp_path / "hub-0" / "tls" / "tls.key").unlink()  # as in a new pod
        cluster.start_agent("hub-0")
        await cluster.until(lambda: ordered(cluster, "certificate")[0] != before[0], "another certificate")
        await cluster.until(lambda: encrypted(cluster), "TLS")
        assert ordered(cluster, "certificate")[1] == before[1]

    live(tmp_path, life)


@pytest.mark.parametrize("strategy", ["ConsistentHashing", "Nobodys"], ids=["accepted", "refused"])
def test_certificates_and_authorities_are_renewed_also_while_the_hub_is_refused(tmp_path: Path, strategy: str) -> None:
    async def life(cluster: Cluster) -> None:
        await leads(cluster, "operator-0", SECONDS)
        await cluster.until(lambda: encrypted(cluster), "TLS")
        before, trusted = ordered(cluster, "certificate"), hub_tls(cluster)["authorities"]
        cluster.api.update(
            Key("hubs", "ns", "hub"), lambda hub: hub["spec"].update(distribution={"strategy": strategy})
        )
        await leads(cluster, "operator-1", SECONDS)
        await cluster.until(lambda: not set(before) & set(ordered(cluster, "certificate")), "renewed", within=90)
        await cluster.until(lambda: trusted not in hub_tls(cluster)["authorities"], "another authority", within=400)
        assert set(ordered(cluster, "authorities")) == {hub_tls(cluster)["authorities"]}

    live(tmp_path, life)
