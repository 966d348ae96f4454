"""Pods that do not name their child: identified by immutable fields, at a bounded cost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import make_child, make_hub
from processhub.api.child import PodWorkload
from processhub.api.hub import HubSpec, RedundancySpec
from processhub.api.kubernetes import Pod
from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID, child_pod_name
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.store import podmarks
from processhub.controller.store.podmarks import claims_to_be_child_pod, identified, is_child_pod
from processhub.registry.grammar import Assignment

MARKS = ("child-id", "child-uid", "epoch", "run", "role", "workload", "hub-uid", "member", "child")
COPIES = RedundancySpec(strategy="Replication", replication_model="ActiveActive")
ID = "tenant/$(42) $$(x)"


def made(spec: HubSpec | None = None) -> dict[str, Any]:
    """The manifest of a child's Pod, with a container that another program has put first."""
    hub = make_hub("shop", spec)
    child = make_child("tenant-42", hub="shop", uid="u1")
    place = PodPlace(child_id=ID, member="shop-1", node="node-1", entry=Assignment(uid="u1", epoch=7, workload="w"))
    own = [{"name": "WHO", "value": "$(HUB_CHILD_ID)"}, {"name": "SECRET", "valueFrom": {"secretKeyRef": {}}}]
    template = {"spec": {"containers": [{"name": "main", "image": "i", "env": own}]}}
    manifest = child_pod(hub, child, place, PodWorkload(template=template))
    manifest["spec"]["containers"].insert(0, {"name": "proxy"})
    return manifest


def seen(manifest: dict[str, Any], *without: str) -> Pod:
    """The Pod as a watch shows it, without some of its labels and annotations."""
    metadata = manifest["metadata"]
    for kind in ("labels", "annotations"):
        metadata[kind] = {
            name: value for name, value in metadata[kind].items() if name.partition("/")[2] not in without
        }
    return msgspec.convert(manifest, Pod)


@pytest.mark.parametrize("copies", [False, True])
def test_a_pod_without_labels_and_annotations_is_identified_by_its_name_and_environment(copies: bool) -> None:
    spec = HubSpec(redundancy=COPIES) if copies else HubSpec()
    whole = made(spec)["metadata"]

    known = identified(seen(made(spec), *MARKS), "shop", {"earlier-uid", "hub-uid"})

    assert known is not None
    assert is_child_pod(known)
    for name in ("hub", "hub-uid", "member", "child"):
        assert known.metadata.labels[f"processhub.dev/{name}"] == whole["labels"][f"processhub.dev/{name}"]
    assert known.metadata.annotations["processhub.dev/child-id"] == ID


def test_a_pod_of_an_earlier_hub_is_identified_by_its_own_label() -> None:
    left = tuple(set(MARKS) - {"hub-uid"})

    assert identified(seen(made(), *left), "shop", {"later-uid"}) is not None
    assert identified(seen(made(), *MARKS), "shop", {"later-uid"}) is None


def test_a_users_copy_of_a_pod_is_not_a_childs_pod() -> None:
    copied = made()
    copied["metadata"]["name"] = "shop-0123456789abcdef"

    assert identified(seen(copied), "shop", {"hub-uid"}) is None


def test_a_crafted_pod_costs_a_few_names_whatever_it_contains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names were computed for each child of its owner on each member: 8.8 seconds for a ChildSet of 100,000."""
    made_up = 0

    def counted(*given: str) -> str:
        nonlocal made_up
        made_up += 1
        return child_pod_name(*given)

    monkeypatch.setattr(podmarks, "child_pod_name", counted)
    env = [{"name": "HUB_CHILD_ID", "value": "x"}, {"name": "HUB_MEMBER", "value": "m"}]
    crafted = {
        "metadata": {
            "name": "hub-0123456789abcdef",
            "namespace": "ns",
            "uid": "p",
            "labels": {LABEL_HUB: "hub", LABEL_HUB_UID: "zz", "processhub.dev/child": "x"},
            "ownerReferences": [
                {"apiVersion": "processhub.dev/v1alpha1", "kind": "ChildSet", "name": "web", "uid": f"SET{number}"}
                for number in range(1000)
            ],
        },
        "spec": {"containers": [{"name": f"c{number}", "env": env} for number in range(1000)]},
    }
    pod = msgspec.convert(crafted, Pod)
    assert claims_to_be_child_pod(pod)
    assert not is_child_pod(pod)

    assert identified(pod, "hub", {"h"}) is None
    assert 0 < made_up <= 4
