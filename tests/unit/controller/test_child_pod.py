"""The Pod of a pod child: what is made of the user's template, and when it is created and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_child, make_hub
from processhub.api.child import ChildSpec, PodWorkload, Workload
from processhub.api.hub import HubSpec, RedundancySpec
from processhub.api.kubernetes import Pod, PodStatus
from processhub.api.meta import ObjectMeta
from processhub.api.naming import child_pod_name, child_pod_names, id_hash
from processhub.api.reasons import Reason
from processhub.controller.execute.askedpods import Asked, new_marks, to_be_deleted, to_be_made
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.objects.owned import selector_labels
from processhub.core.acceptance import refuse_child
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload, is_pod_workload

HUB = make_hub("shop")
CHILD = make_child("tenant-42", hub="shop", uid="u1")
NAME = child_pod_name("shop", "hub-uid", "tenant/42")
HERE = {"key": "metadata.name", "operator": "In", "values": ["node-1"]}


def entry(**fields: Any) -> Assignment:
    return Assignment(**{"uid": "u1", "epoch": 7, "workload": "w", **fields})


def place(**fields: Any) -> PodPlace:
    return PodPlace(child_id="tenant/42", member="shop-1", node="node-1", entry=entry(**fields))


def made(template: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    template = template or {"spec": {"containers": [{"name": "main", "image": "i"}]}}
    return child_pod(HUB, CHILD, place(**fields), PodWorkload(template=template))


def asked(report: Report | None = None, *, live: bool = True, **fields: Any) -> Asked:
    return Asked(place(**fields), "", report, live)


def pod(phase: str = "Running", deleted: str | None = None, **marks: str) -> Pod:
    metadata = made()["metadata"]
    return Pod(
        metadata=ObjectMeta(
            name=NAME,
            uid="p1",
            labels=metadata["labels"],
            annotations=metadata["annotations"] | {f"processhub.dev/{key}": value for key, value in marks.items()},
            deletion_timestamp=deleted,
        ),
        status=PodStatus(phase=phase),
    )


def said(state: str, reason: str = "") -> Report:
    return Report(uid="u1", epoch=7, state=state, reason=reason)


def env(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_the_pod_is_owned_by_its_child_and_names_its_incarnation() -> None:
    metadata = made()["metadata"]

    assert (metadata["name"], metadata["namespace"]) == (NAME, "ns")
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "processhub.dev/v1alpha1",
            "kind": "Child",
            "name": "tenant-42",
            "uid": "u1",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "processhub",
        "app.kubernetes.io/component": "child",
        "processhub.dev/hub": "shop",
        "processhub.dev/hub-uid": "hub-uid",
        "processhub.dev/member": "shop-1",
        "processhub.dev/child": id_hash("tenant/42"),
    }
    assert metadata["annotations"] == {
        "processhub.dev/child-id": "tenant/42",
        "processhub.dev/child-uid": "u1",
        "processhub.dev/epoch": "7",
        "processhub.dev/run": "7",
        "processhub.dev/role": "Active",
        "processhub.dev/workload": "w",
    }


def test_no_selector_of_the_hub_matches_the_pod_of_a_child() -> None:
    labels = made()["metadata"]["labels"]

    assert any(labels.get(key) != value for key, value in selector_labels(HUB).items())


def test_the_name_depends_on_the_id_and_the_hub_only() -> None:
    names = {child_pod_name("shop", uid, child_id) for uid in ("1", "2") for child_id in ("a", "b")}

    assert len(names) == 4
    assert all(len(name) <= 40 + 17 for name in (child_pod_name("h" * 40, "u", "x" * 253), *names))


def test_labels_and_annotations_of_the_template_are_kept_and_override_none_of_ours() -> None:
    given = {
        "name": "mine",
        "namespace": "other",
        "labels": {"team": "a", "processhub.dev/hub": "theirs"},
        "annotations": {"note": "b", "processhub.dev/epoch": "1"},
    }
    metadata = made({"metadata": given, "spec": {"containers": [{"name": "main"}]}})["metadata"]

    assert (metadata["name"], metadata["namespace"]) == (NAME, "ns")
    assert (metadata["labels"]["team"], metadata["labels"]["processhub.dev/hub"]) == ("a", "shop")
    assert (metadata["annotations"]["note"], metadata["annotations"]["processhub.dev/epoch"]) == ("b", "7")


def test_each_container_gets_the_hubs_variables_which_its_own_do_not_override() -> None:
    own = [{"name": "HUB_EPOCH", "value": "1"}, {"name": "WHO", "value": "$(HUB_CHILD_ID)"}]
    containers = [{"name": "main", "env": own}, {"name": "side"}]
    template: dict[str, Any] = {"spec": {"initContainers": [{"name": "first"}], "containers": containers}}
    found = made(template)["spec"]

    variables = {
        "HUB_NAME": "shop",
        "HUB_NAMESPACE": "ns",
        "HUB_MEMBER": "shop-1",
        "HUB_CHILD_ID": "tenant/42",
        "HUB_EPOCH": "7",
        "HUB_ROLE": "Active",
        "HUB_URL": "http://shop.ns.svc:8080",
        "HUB_TOKEN_FILE": "/var/run/secrets/processhub/token",
    }
    assert env(found["containers"][0]) == variables | {"WHO": "$(HUB_CHILD_ID)"}
    assert found["containers"][0]["env"][-1]["name"] == "WHO", "after those that it refers to"
    assert env(found["containers"][1]) == env(found["initContainers"][0]) == variables
    assert template["spec"]["containers"][0]["env"] == own, "the template is not changed"


def test_the_node_is_added_to_each_of_the_users_alternatives() -> None:
    ssd = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    fields = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["x"]}]}
    by_node = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [ssd, fields]},
        "preferredDuringSchedulingIgnoredDuringExecution": ["kept"],
    }
    affinity = {"podAffinity": "kept", "nodeAffinity": by_node}
    found = made({"spec": {"containers": [{"name": "main"}], "affinity": affinity}})["spec"]["affinity"]

    assert found == {
        "podAffinity": "kept",
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {**ssd, "matchFields": [HERE]},
                    {"matchFields": [*fields["matchFields"], HERE]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": ["kept"],
        },
    }
    plain = made()["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert plain == {"nodeSelectorTerms": [{"matchFields": [HERE]}]}


def test_the_pod_has_a_scheduling_gate_of_the_operator_beside_the_users_own() -> None:
    given = {"schedulingGates": [{"name": "user.dev/later"}, {"name": "processhub.dev/sole"}]}
    spec = {"containers": [{"name": "main"}], **given}

    assert made({"spec": spec})["spec"]["schedulingGates"] == given["schedulingGates"]
    assert made()["spec"]["schedulingGates"] == [{"name": "processhub.dev/sole"}]


def test_nothing_is_added_that_pod_security_restricted_checks() -> None:
    bare = {"spec": {"containers": [{"name": "main", "image": "i"}]}}
    found = made(bare)["spec"]

    assert found.keys() == {"containers", "restartPolicy", "affinity", "volumes", "schedulingGates"}
    assert found["containers"][0].keys() == {"name", "image", "env", "volumeMounts"}
    assert [volume.keys() - {"name"} for volume in found["volumes"]] == [{"projected"}], "a kind that it allows"


@pytest.mark.parametrize(
    ("policy", "given", "restarts"),
    [
        ("Permanent", {}, "Always"),
        ("Transient", {}, "OnFailure"),
        ("Temporary", {}, "Never"),
        ("Temporary", {"restartPolicy": None}, "Never"),
        ("Temporary", {"restartPolicy": ""}, "Never"),
        ("Permanent", {"restartPolicy": "Never"}, "Never"),
    ],
)
def test_the_restart_policy_of_the_pod_follows_the_childs_unless_the_template_has_one(
    policy: str, given: Any, restarts: str
) -> None:
    spec = {"containers": [{"name": "main"}], **given}

    assert made({"spec": spec}, restart_policy=policy)["spec"]["restartPolicy"] == restarts


@pytest.mark.parametrize(
    ("wanted", "there", "answer"),
    [
        (asked(said("Starting")), None, True),
        (asked(said("Starting")), pod(), False),
        (asked(said("Starting")), pod(deleted="2026-01-01T00:00:00Z"), False),
        (asked(said("Starting"), live=False), None, False),
        (asked(None), None, False),
        (asked(said("Pending")), None, False),
        (asked(said("Running")), None, False),
        (asked(said("Failed", "Exited")), None, False),
        (asked(said("Stopped")), None, False),
    ],
    ids=["asked for", "there", "ending", "member away", "silent", "pending", "running", "backing off", "finished"],
)
def test_a_pod_is_created_only_if_its_member_requests_it_and_none_exists(
    wanted: Asked, there: Pod | None, answer: bool
) -> None:
    assert to_be_made(wanted, there) is answer


@pytest.mark.parametrize(
    ("wanted", "there", "answer"),
    [
        (asked(), pod(), False),
        (asked(live=False), pod(), False),
        (None, pod(), True),
        (None, pod(deleted="2026-01-01T00:00:00Z"), False),
        (asked(uid="u2"), pod(), True),
        (asked(epoch=8), pod(), True),
        (asked(workload="x"), pod(), True),
        (Asked(PodPlace(child_id="tenant/42", member="shop-2", node="n", entry=entry()), "", None, True), pod(), True),
        (asked(), pod("Succeeded"), True),
        (asked(restart_policy="Transient"), pod("Succeeded"), False),
        (asked(restart_policy="Transient"), pod("Failed"), True),
        (asked(restart_policy="Temporary"), pod("Failed"), False),
        (asked(said("Failed", "RestartsExceeded")), pod("Failed"), False),
        (asked(said("Stopped"), restart_policy="Temporary"), pod(), True),
    ],
    ids=[
        "as asked for",
        "member away",
        "entry gone",
        "ending already",
        "another child",
        "another epoch",
        "another workload",
        "another member",
        "ended, permanent",
        "succeeded, transient",
        "failed, transient",
        "failed, temporary",
        "given up",
        "made again by mistake",
    ],
)
def test_a_pod_is_deleted_when_the_slices_have_another_incarnation_or_none(
    wanted: Asked | None, there: Pod, answer: bool
) -> None:
    assert to_be_deleted(wanted, there) is answer


def test_a_copy_that_becomes_active_keeps_its_pod_with_changed_annotations() -> None:
    passive = pod(epoch="5", run="5", role="Passive")
    promoted = asked(epoch=7, run=5, role="Active")

    assert not to_be_deleted(promoted, passive)
    assert new_marks(promoted, passive) == {
        **passive.metadata.annotations,
        "processhub.dev/epoch": "7",
        "processhub.dev/role": "Active",
    }
    assert new_marks(promoted, pod(epoch="7", run="5")) == {}
    assert new_marks(None, passive) == {}


def test_a_pod_of_a_hub_with_standby_copies_starts_as_passive() -> None:
    template = {"spec": {"containers": [{"name": "main", "image": "i"}]}}
    roles = {}
    for model in ("ActivePassive", "ActiveActive"):
        redundancy = RedundancySpec(strategy="Replication", replication_model=model)
        hub = make_hub("shop", HubSpec(redundancy=redundancy))
        manifest = child_pod(hub, CHILD, place(), PodWorkload(template=template))
        role = manifest["metadata"]["annotations"]["processhub.dev/role"]
        roles[model] = (role, env(manifest["spec"]["containers"][0])["HUB_ROLE"])
        assert manifest["metadata"]["name"] == child_pod_name("shop", "hub-uid", "tenant/42", "shop-1")

    assert roles == {"ActivePassive": ("Passive", "Passive"), "ActiveActive": ("Active", "Active")}


def test_a_copy_that_steps_back_or_starts_again_gets_another_pod() -> None:
    for wanted in (asked(epoch=7, role="Passive"), asked(epoch=7, run=6), asked(uid="u2", epoch=7, run=5)):
        assert to_be_deleted(wanted, pod(epoch="5", run="5"))
        assert new_marks(wanted, pod(epoch="5", run="5")) == {}
    assert to_be_deleted(asked(epoch=7, run=5), pod(epoch="8", run="8")), "of a later run"


def test_a_passive_copys_pod_that_somebody_marked_active_is_replaced() -> None:
    assert to_be_deleted(asked(epoch=5, role="Passive"), pod(epoch="5", run="5", role="Active"))
    assert not to_be_deleted(asked(epoch=5, role="Passive"), pod(epoch="5", run="5", role="Passive"))


def test_the_pods_of_copies_have_different_names() -> None:
    names = {child_pod_name("shop", "hub-uid", "a", member) for member in ("", "shop-0", "shop-1")}

    assert len(names) == 3
    assert set(child_pod_names("shop", "hub-uid", "a", "shop-0")) < names


def test_a_pod_workload_is_recognised_by_its_text() -> None:
    _, text = encode_workload(Workload(pod=PodWorkload(template={"spec": {}})))

    assert is_pod_workload(text)
    assert is_pod_workload(encode_workload(Workload(pod=PodWorkload()))[1])
    assert not is_pod_workload('{"exec":{"command":["pod"]}}')


@pytest.mark.parametrize(
    ("template", "policy", "words"),
    [
        ({}, "Permanent", "has no spec.containers"),
        ({"spec": []}, "Permanent", "has no spec.containers"),
        ({"spec": {"containers": []}}, "Permanent", "has no spec.containers"),
        ({"spec": {"containers": [{}], "nodeName": "n"}}, "Permanent", "leave nodeName out"),
        ({"spec": {"containers": [{}], "restartPolicy": "Always"}}, "Transient", "use OnFailure or Never"),
        ({"spec": {"containers": [{}], "restartPolicy": "OnFailure"}}, "Temporary", "use Never"),
    ],
)
def test_a_template_that_cannot_work_is_rejected(template: dict[str, Any], policy: Any, words: str) -> None:
    spec = ChildSpec(hub="shop", pod=PodWorkload(template=template), restart_policy=policy)
    refusal = refuse_child(spec, HubSpec())

    assert refusal is not None
    assert refusal.reason is Reason.INVALID
    assert words in refusal.message


@pytest.mark.parametrize(("policy", "given"), [("Permanent", "Never"), ("Transient", "OnFailure"), ("Temporary", "")])
def test_a_template_that_can_work_is_accepted(policy: Any, given: str) -> None:
    template = {"spec": {"containers": [{}], "restartPolicy": given}}
    spec = ChildSpec(hub="shop", pod=PodWorkload(template=template), restart_policy=policy)

    assert refuse_child(spec, HubSpec()) is None
