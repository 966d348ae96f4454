"""The API server in memory treats Pods like a real one where the operator and its pod children depend on it."""

from __future__ import annotations

import pytest
from apiservers import ACCOUNT, PODS, SERVERS, ApiServer, Json, asked

from processhub.api.naming import GATE_SOLE
from processhub.cluster.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError

pytest_plugins = ("apiservers",)
SPEC = {"serviceAccountName": ACCOUNT, "containers": [{"name": "main", "image": "none"}]}
GATES = [{"name": "example.com/other"}, {"name": GATE_SOLE}]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The API server under test."""
    return asked(request)


def condition(pod: Json) -> tuple[str, str]:
    """The status and the reason of a Pod's condition PodScheduled."""
    found = next(each for each in pod["status"]["conditions"] if each["type"] == "PodScheduled")
    return found["status"], found["reason"]


async def test_a_new_pod_is_pending_and_its_gates_block_it(server: ApiServer) -> None:
    pod = await server.create(PODS, spec={**SPEC, "schedulingGates": GATES}, status={"phase": "Running"})

    assert pod["status"]["phase"] == "Pending"
    assert condition(await server.get(PODS, pod)) == ("False", "SchedulingGated")
    assert pod["spec"]["restartPolicy"] == "Always"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 30
    assert "nodeName" not in pod["spec"]


async def test_a_gate_is_removed_by_a_patch_of_the_pod_as_it_was_seen(server: ApiServer) -> None:
    pod = await server.create(PODS, spec={**SPEC, "schedulingGates": GATES})
    pod = await server.get(PODS, pod)
    seen = {name: pod["metadata"][name] for name in ("uid", "resourceVersion")}
    patch = {"metadata": {**seen, "annotations": {"a": "1"}}, "spec": {"schedulingGates": GATES[:1]}}

    patched = await server.patch(PODS, pod, patch)
    assert patched["spec"]["schedulingGates"] == GATES[:1]
    assert patched["metadata"]["annotations"] == {"a": "1"}
    with pytest.raises(ConflictError):
        await server.patch(PODS, pod, patch)
    bare = await server.patch(PODS, pod, {"spec": {"schedulingGates": None}})
    assert not bare["spec"].get("schedulingGates")
    with pytest.raises(InvalidError):
        await server.patch(PODS, pod, {"spec": {"schedulingGates": GATES[:1]}})


async def test_the_rest_of_a_pods_spec_is_fixed(server: ApiServer) -> None:
    pod = await server.create(PODS, spec={**SPEC, "schedulingGates": GATES})

    for spec in ({"restartPolicy": "Never"}, {"hostname": "h"}, {"containers": [{"name": "other", "image": "none"}]}):
        with pytest.raises(InvalidError):
            await server.patch(PODS, pod, {"spec": spec})


async def test_a_pods_creation_is_tried_under_a_generated_name(server: ApiServer) -> None:
    pod = await server.create(PODS, spec={**SPEC, "schedulingGates": GATES})
    name = pod["metadata"]["name"]

    tried = {"metadata": {"generateName": f"{name}-"}, "spec": dict(SPEC)}
    made = await server.client.create(PODS, server.namespace, tried, dry_run=True)
    assert made["metadata"]["name"].startswith(f"{name}-")
    with pytest.raises(NotFoundError):
        await server.get(PODS, made)
    with pytest.raises(AlreadyExistsError):
        await server.create(PODS, name, spec=dict(SPEC))


async def test_a_gated_pod_is_deleted_at_once(server: ApiServer) -> None:
    pod = await server.create(PODS, spec={**SPEC, "schedulingGates": GATES})

    await server.delete(PODS, pod, uid=pod["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await server.get(PODS, pod)
