"""The process kubelet starts pods like a real kubelet, as far as the product depends on it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from podworld import (
    CONFIG_MAPS,
    NODES,
    PODS,
    SECRETS,
    SLEEP,
    Json,
    Pods,
    condition,
    first_line,
    folder_of,
    is_ready,
    main_status,
    pod,
    restarts,
    shell,
    uid_of,
    with_state,
)
from waiting import eventually

import processhub
from localcluster.cluster import Cluster
from localcluster.kubelet.publish import STRATEGIC_MERGE_PATCH
from localcluster.layout import CHECKOUT
from processhub.cluster.client import Client


async def test_environment_and_arguments_come_from_the_spec(pods: Pods, api: Client) -> None:
    meta = {"name": "settings"}
    await api.create(CONFIG_MAPS, pods.namespace, {"metadata": meta, "data": {"COLOUR": "blue", "SHAPE": "round"}})
    await api.create(SECRETS, pods.namespace, {"metadata": meta, "stringData": {"word": "open sesame"}})
    script = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:], os.getcwd()]), flush=True)"
    body = pod(
        "env",
        ["python3", "-c", f"{script}; import time; time.sleep(1000)"],
        args=["--name=$(NAME)", "$$(NAME)", "$(UNKNOWN)"],
        workingDir="/tmp",
        resources={"limits": {"cpu": "1500m", "memory": "64Mi"}},
        envFrom=[{"prefix": "CFG_", "configMapRef": {"name": "settings"}}],
        env=[
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "UID_", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "ACCOUNT", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "word"}}},
            {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
            {"name": "BOTH", "value": "$(CFG_COLOUR) $(WORD)"},
        ],
    )
    body["metadata"]["labels"] = {"tier": "gold"}

    made = await pods.running(body)
    environment, arguments, folder = json.loads(await eventually(lambda: first_line(pods, "env"), "a line of log"))

    assert {
        "NAME": "env", "NAMESPACE": pods.namespace, "UID_": made["metadata"]["uid"], "TIER": "gold",
        "NODE": made["spec"]["nodeName"], "ACCOUNT": "default", "POD_IP": made["status"]["podIP"],
        "HOST_IP": made["status"]["hostIP"], "MEMORY": "64", "CPUS": "2", "WORD": "open sesame",
        "CFG_COLOUR": "blue", "CFG_SHAPE": "round", "BOTH": "blue open sesame", "HOSTNAME": "env",
    }.items() <= environment.items()  # fmt: skip
    assert "ABSENT" not in environment
    assert arguments == ["--name=env", "$(NAME)", "$(UNKNOWN)"]
    assert folder == "/tmp"


async def test_volumes_are_mounted_where_the_spec_says(pods: Pods, api: Client) -> None:
    await api.create(CONFIG_MAPS, pods.namespace, {"metadata": {"name": "files"}, "data": {"a": "1", "b": "2"}})
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "files", "configMap": {"name": "files", "items": [{"key": "a", "path": "deep/a.txt"}]}},
        {"name": "whole", "configMap": {"name": "files"}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    mounts = [
        {"name": "scratch", "mountPath": "/made-up/scratch"},
        {"name": "files", "mountPath": "/etc/made-up/files", "readOnly": True},
        {"name": "whole", "mountPath": "/etc/made-up/b.txt", "subPath": "b"},
        {"name": "labels", "mountPath": "/var/lib/made-up/labels"},
    ]
    script = (
        "cat /etc/made-up/files/deep/a.txt /etc/made-up/b.txt /var/lib/made-up/labels/n; "
        "touch /etc/made-up/files/x 2>/dev/null || printf ' read-only'; "
        "touch /made-up/scratch/y && ls /made-up/scratch; exec sleep 1000"
    )

    await pods.running(pod("volumes", shell(script), spec={"volumes": volumes}, volumeMounts=mounts))

    assert await eventually(lambda: first_line(pods, "volumes"), "a line of log") == "12volumes read-onlyy"
    assert "made-up" not in os.listdir("/")  # noqa: PTH208 - Path's methods are not allowed in async functions


async def test_read_only_root_leaves_only_the_volumes_writable(pods: Pods) -> None:
    script = (
        "for f in /tmp/x /var/x /made-up-x $HOME/x /state/x; do touch $f 2>/dev/null && printf '%s ' $f; done; echo;"
        "exec sleep 1000"
    )
    body = pod("frozen", shell(script), securityContext={"readOnlyRootFilesystem": True}, **with_state())

    await pods.running(body)

    assert await eventually(lambda: first_line(pods, "frozen"), "a line of log") == "/state/x "


def over_the_programs() -> Json:
    """Two emptyDirs, at /tmp and over the folder of the checkout: neither may hide the programs of containers."""
    above = str(CHECKOUT.parent)
    return {
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "above", "emptyDir": {}}]},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "above", "mountPath": above}],
        "env": [{"name": "ABOVE", "value": above}],
    }


RUNS_FROM_THE_CHECKOUT = [
    "python3",
    "-c",
    "import os, time, processhub; open(os.environ['ABOVE'] + '/mine', 'w').write('kept');"
    "print(processhub.__file__, open(os.environ['KUBECONFIG']).read().split()[0], flush=True); time.sleep(1000)",
]


async def test_a_volume_over_the_checkout_does_not_hide_it(pods: Pods) -> None:
    await pods.running(pod("above", RUNS_FROM_THE_CHECKOUT, **over_the_programs()))

    said = await eventually(lambda: first_line(pods, "above"), "a line of log")
    volume = await folder_of(pods, "above") / "volumes" / "above"

    assert said == f"{processhub.__file__} apiVersion:"
    assert (volume / "mine").read_text() == "kept"
    assert sorted(os.listdir(volume)) == sorted(["mine", CHECKOUT.name])  # noqa: PTH208
    assert not (CHECKOUT.parent / "mine").exists()


async def test_folders_of_a_read_only_root_are_read_only_inside_a_volume_too(pods: Pods) -> None:
    script = f"cd '{CHECKOUT}' && touch x 2>/dev/null || echo refused; touch \"$ABOVE/mine\" && exec sleep 1000"
    frozen = {"readOnlyRootFilesystem": True}

    await pods.running(pod("frozen-above", shell(script), securityContext=frozen, **over_the_programs()))

    assert await eventually(lambda: first_line(pods, "frozen-above"), "a line of log") == "refused"


async def test_paths_are_rewritten_without_mount_namespaces(pods: Pods, cluster: Cluster, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "localcluster.kubelet", "--kubeconfig", str(cluster.kubeconfig), "--nodes", "1"),
        *("--root", str(tmp_path / "flat"), "--prefix", f"{pods.namespace}-", "--no-isolation"),
    ]
    node = f"{pods.namespace}-0"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "testbed")}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        script = "echo $WHERE > /state/log; cat /state/log; echo /stateless; exec sleep 1000"
        body = pod("flat", shell(script), env=[{"name": "WHERE", "value": "/state/deep"}], **with_state())
        body["spec"]["nodeName"] = node
        await pods.running(body)

        where, other = (tmp_path / "flat" / "pods" / uid_of(await pods.get("flat"))), "/stateless"

        async def look() -> bool:
            return await pods.logs("flat") == f"{where}/volumes/state/deep\n{other}\n"

        await eventually(look, "the volume's real path in environment and arguments")
        over = pod("flat-above", RUNS_FROM_THE_CHECKOUT, **over_the_programs())
        over["spec"]["nodeName"] = node
        await pods.running(over)
        said = await eventually(lambda: first_line(pods, "flat-above"), "a line of log")
        assert said == f"{processhub.__file__} apiVersion:"
        for name in ("flat", "flat-above"):
            await pods.api.delete(PODS, pods.namespace, name)
            await pods.gone(name)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 40) == 0
        await pods.api.delete(NODES, None, node)


async def test_the_token_is_bound_to_the_pod_and_works_in_the_cluster(pods: Pods) -> None:
    script = (
        "kubectl auth whoami -o json; KUBECONFIG=/dev/null kubectl --kubeconfig= "
        "--server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT "
        "--certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt "
        "--token=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token) auth whoami -o name; echo; echo end; "
        "exec sleep 1000"
    )
    made = await pods.running(pod("token", shell(script)))

    async def look() -> str | None:
        text = await pods.logs("token")
        return text if text.endswith("end\n") else None

    said, _, _ = (await eventually(look, "whoami's answer")).partition("\n}\n")
    extra = json.loads(said + "}")["status"]["userInfo"]["extra"]

    assert extra["authentication.kubernetes.io/pod-name"] == ["token"]
    assert extra["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    assert extra["authentication.kubernetes.io/node-name"] == [made["spec"]["nodeName"]]


async def test_a_container_starts_only_when_its_config_map_exists(pods: Pods, api: Client) -> None:
    source = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}
    await pods.create(pod("waits", SLEEP, env=[source]))

    waiting = await pods.until(
        "waits",
        lambda body: (
            main_status(body).get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError"
        ),
        "waits for its ConfigMap",
    )
    await api.create(CONFIG_MAPS, pods.namespace, {"metadata": {"name": "late"}, "data": {"x": "1"}})

    assert "late" in main_status(waiting)["state"]["waiting"]["message"]
    await pods.until("waits", is_ready, "is Ready")


async def test_the_condition_ready_follows_the_readiness_probe_and_gates(pods: Pods, api: Client) -> None:
    serve = (
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if os.path.exists('/state/ok') else 503); self.end_headers()\n"
        "    def log_message(self, *a): pass\n"
        "http.server.HTTPServer((os.environ['IP'], 8080), H).serve_forever()"
    )
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1}
    spec = {"volumes": [{"name": "state", "emptyDir": {}}], "readinessGates": [{"conditionType": "example.com/gate"}]}
    await pods.create(
        pod(
            "probed",
            ["python3", "-c", serve],
            spec=spec,
            env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            ports=[{"name": "web", "containerPort": 8080}],
            volumeMounts=[{"name": "state", "mountPath": "/state"}],
            readinessProbe=probe,
        )
    )
    await pods.until("probed", lambda body: "running" in main_status(body).get("state", {}), "runs")
    assert not is_ready(await pods.get("probed"))

    marker = (await folder_of(pods, "probed")) / "volumes" / "state" / "ok"
    marker.touch()
    await pods.until("probed", lambda body: condition(body, "ContainersReady") == "True", "has ready containers")
    assert not is_ready(await pods.get("probed"))

    gate = {"type": "example.com/gate", "status": "True"}
    await api.patch(
        PODS,
        pods.namespace,
        "probed",
        {"status": {"conditions": [gate]}},
        content_type=STRATEGIC_MERGE_PATCH,
        subresource="status",
    )
    await pods.until("probed", is_ready, "is Ready")

    marker.unlink()
    await pods.until("probed", lambda body: not is_ready(body), "is not Ready")


async def test_a_failing_liveness_probe_restarts_the_container(pods: Pods) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/state/sick"]}, "periodSeconds": 1, "failureThreshold": 1}
    await pods.running(
        pod(
            "sick",
            SLEEP,
            spec={"volumes": [{"name": "state", "emptyDir": {}}]},
            volumeMounts=[{"name": "state", "mountPath": "/state"}],
            livenessProbe=probe,
        )
    )
    marker = (await folder_of(pods, "sick")) / "volumes" / "state" / "sick"

    marker.touch()

    await pods.until("sick", lambda body: restarts(body) >= 1, "is restarted")


async def test_init_containers_run_in_order_and_sidecars_stay(pods: Pods) -> None:
    mounts = [{"name": "state", "mountPath": "/state"}]

    def init(name: str, script: str, **more: Any) -> Json:
        return {"name": name, "image": "none", "command": shell(script), "volumeMounts": mounts} | more

    spec = {
        "volumes": [{"name": "state", "emptyDir": {}}],
        "initContainers": [
            init("one", "printf 1 >> /state/log"),
            init("side", "printf s >> /state/log; exec sleep 1000", restartPolicy="Always"),
            init("two", "while ! grep -q s /state/log; do :; done; printf 2 >> /state/log"),
        ],
    }
    await pods.running(pod("init", shell("cat /state/log; echo; exec sleep 1000"), spec=spec, volumeMounts=mounts))

    assert await eventually(lambda: first_line(pods, "init"), "a line of log") == "1s2"
    assert len(await pods.pids("init")) == 2
