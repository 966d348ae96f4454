"""The leader's term in the status of the Hub, which outlives the leader's Lease and the slices."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import virtualtime
from a_round import a_round
from memoryapi import Json, Key, MemoryApi, MemoryClient, Wire
from memoryrequests import Refused
from memoryschemas import rules_of
from onethread import Cluster, running_hub

from processhub.api.slice import EPOCHS_PER_TERM
from processhub.cluster.kinds import HUBS
from processhub.controller.errors import DeposedError
from processhub.controller.lead.notedterm import Noted, note_term
from processhub.controller.store.informers import Store
from processhub.registry.grammar import parse_assignment

HUB, LEADER = Key("hubs", "ns", "hub"), Key("leases", "ns", "processhub-operator")
HUBS_URL = "/apis/processhub.dev/v1alpha1/namespaces/ns/hubs"


def noted(cluster: Cluster) -> int:
    """The term in the Hub's status."""
    return int(cluster.api.objects[HUB].get("status", {}).get("term", 0))


def led(cluster: Cluster) -> int:
    """The term in the leader's Lease."""
    lease = cluster.api.objects.get(LEADER)
    return int(lease["metadata"]["annotations"]["processhub.dev/term"]) if lease is not None else 0


def add(cluster: Cluster, name: str) -> None:
    spec = {"hub": "hub", "exec": {"command": ["x"]}}
    cluster.api.create("children", {"metadata": {"name": name}, "spec": spec})


def test_the_term_is_noted_before_the_first_epoch_of_it_is_given(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            given: list[tuple[int, int]] = []

            def look(key: Key, _before: Json | None, after: Json | None) -> None:
                if key.plural == "registryslices" and after is not None:
                    entries = map(parse_assignment, after["spec"]["entries"].values())
                    given.extend((entry.epoch // EPOCHS_PER_TERM, noted(cluster)) for entry in entries)

            cluster.api.listeners.append(look)
            add(cluster, "a")
            await cluster.until(lambda: cluster.reported_running("a"), "it runs")
            cluster.start_replica("operator-1")
            cluster.stops["operator-0"].set()
            await cluster.until(lambda: led(cluster) == 2, "the other one leads")
            add(cluster, "b")
            await cluster.until(lambda: cluster.reported_running("a", "b"), "both run")

            assert {term for term, _ in given} == {1, 2}
            assert all(term <= status for term, status in given)

    virtualtime.run(main())


@pytest.mark.parametrize(
    ("hub", "term", "said"),
    [
        # A Hub was restored with its status, or the Lease was deleted and another operator leads.
        ("hub", 7, "the status of hub hub has the higher term 7"),
        # The first one's Lease was deleted before it had noted its term, so the second one got the same. Both gave the
        # same epochs, and members believed both.
        ("other", 1, "another leader has written term 1 into the status of hub other"),
    ],
    ids=["a higher one", "its own, by another leader"],
)
def test_a_term_of_another_leader_does_not_fall_ends_this_one_and_the_next_is_above_it(
    tmp_path: Path, hub: str, term: int, said: str
) -> None:
    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            if hub == "other":
                spec = cluster.api.objects[HUB]["spec"]
                cluster.api.create("hubs", {"metadata": {"name": hub}, "spec": spec})
            cluster.api.update(Key("hubs", "ns", hub), lambda item: item.setdefault("status", {}).update(term=term))

            late = json.dumps({"status": {"term": term - 1}}).encode()  # the write of a former leader
            with pytest.raises(Refused, match="must not fall"):
                cluster.api.request("PATCH", f"{HUBS_URL}/{hub}/status", late, "application/merge-patch+json")

            await cluster.until(lambda: cluster.tasks["operator-0"].done(), "the leader ends")
            error = cluster.tasks["operator-0"].exception()
            assert isinstance(error, DeposedError)
            assert str(error) == f"leadership lost: {said}"
            await cluster.kill_replica("operator-0")
            cluster.start_replica("operator-0")
            await cluster.until(lambda: led(cluster) == noted(cluster) == term + 1, "the next term is above it")

    virtualtime.run(main())


@pytest.mark.parametrize("writes", ["term", "label"])
def test_a_term_is_noted_only_over_what_the_leader_has_read(writes: str) -> None:
    """Another leader's term may be newer than what the watch of Hubs has delivered. ``writes``: what has changed."""

    async def main() -> None:
        api = MemoryApi()
        client = MemoryClient(api, Wire())
        api.create("hubs", {"metadata": {"name": "hub"}, "spec": {}})
        seen = await client.get(HUBS, "ns", "hub")
        if writes == "term":
            api.update(HUB, lambda item: item.setdefault("status", {}).update(term=5))
        else:
            api.update(HUB, lambda item: item["metadata"].update(labels={"team": "a"}))
        round, own = a_round(seen, client=client, store=Store(client, (), lambda _: None), term=5), Noted()

        if writes == "term":
            with pytest.raises(DeposedError, match="another leader has written term 5"):
                await note_term(round, own)
        else:
            assert (await note_term(round, own)).hub.status.term == 5

    virtualtime.run(main())


def test_with_a_crd_that_lacks_the_field_children_start_and_the_hub_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = rules_of("hubs")
    assert rules is not None
    monkeypatch.delitem(rules.fields["status"].fields, "term")

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            add(cluster, "a")
            await cluster.until(lambda: cluster.reported_running("a"), "it runs")

            def stalled() -> str:
                conditions = cluster.api.objects[HUB]["status"]["conditions"]
                return "".join(each["message"] for each in conditions if each["type"] == "Stalled")

            await cluster.until(lambda: "the API server drops the field" in stalled(), "it is reported")
            before = len(cluster.api.writes)
            await asyncio.sleep(60)
            tries = [key for _, method, key, _ in cluster.api.writes[before:] if method == "PATCH" and key == HUB]
            assert len(tries) < 10

    virtualtime.run(main())
