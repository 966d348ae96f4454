"""The process kubelet keeps a real kubelet's promises, as far as the product relies on them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import alive, eventually

from localcluster.cluster import Cluster
from localcluster.faults import FaultRefusedError, Faults
from localcluster.kubelet.proctree import state
from localcluster.layout import CHECKOUT, ClusterError
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import untyped

PODS, NODES = untyped("v1", "pods"), untyped("v1", "nodes", namespaced=False)
EVENTS = untyped("v1", "events")
CONFIG_MAPS, SECRETS = untyped("v1", "configmaps"), untyped("v1", "secrets")
SLEEP = ["sleep", "1000"]
Json = dict[str, Any]


def pod(name: str, command: list[str], *, spec: Json | None = None, **container: Any) -> Json:
    main = {"name": "main", "image": "none", "command": command} | container
    base = {"containers": [main], "terminationGracePeriodSeconds": 5}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": base | (spec or {})}


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


class Pods:
    """The pods of one test's namespace."""

    def __init__(self, api: Client, cluster: Cluster, faults: Faults, namespace: str) -> None:
        self.api, self.cluster, self.faults, self.namespace = api, cluster, faults, namespace

    async def create(self, body: Json) -> Json:
        return await self.api.create(PODS, self.namespace, body)

    async def get(self, name: str) -> Json:
        return await self.api.get(PODS, self.namespace, name)

    async def until(self, name: str, check: Any, what: str, within: float = 15.0) -> Json:
        async def look() -> Json | None:
            found = await self.get(name)
            return found if check(found) else None

        return await eventually(look, f"{name} {what}", within)

    async def running(self, body: Json) -> Json:
        await self.create(body)
        return await self.until(body["metadata"]["name"], is_ready, "is Ready")

    async def gone(self, name: str, within: float = 15.0) -> None:
        async def look() -> bool:
            try:
                await self.get(name)
            except NotFoundError:
                return True
            return False

        await eventually(look, f"{name} is gone", within)

    async def logs(self, name: str, *options: str) -> str:
        return await asyncio.to_thread(self.cluster.kubectl, "-n", self.namespace, "logs", name, *options)

    async def pids(self, name: str) -> list[int]:
        return await self.faults.pids(f"{self.namespace}/{name}")

    def key(self, name: str) -> str:
        return f"{self.namespace}/{name}"


@pytest.fixture
def pods(api: Client, cluster: Cluster, faults: Faults, namespace: str) -> Pods:
    return Pods(api, cluster, faults, namespace)


def condition(body: Json, kind: str) -> str:
    found = {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions") or ()}
    return str(found.get(kind, "Unknown"))


def is_ready(body: Json) -> bool:
    return condition(body, "Ready") == "True"


def main_status(body: Json) -> Json:
    statuses = body.get("status", {}).get("containerStatuses") or [{}]
    return dict(statuses[0])


def restarts(body: Json) -> int:
    return int(main_status(body).get("restartCount", 0))


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
    environment, arguments, folder = json.loads(await eventually(lambda: _line(pods, "env"), "a line of log"))

    assert {
        "NAME": "env", "NAMESPACE": pods.namespace, "UID_": made["metadata"]["uid"], "TIER": "gold",
        "NODE": made["spec"]["nodeName"], "ACCOUNT": "default", "POD_IP": made["status"]["podIP"],
        "HOST_IP": made["status"]["hostIP"], "MEMORY": "64", "CPUS": "2", "WORD": "open sesame",
        "CFG_COLOUR": "blue", "CFG_SHAPE": "round", "BOTH": "blue open sesame", "HOSTNAME": "env",
    }.items() <= environment.items()  # fmt: skip
    assert "ABSENT" not in environment
    assert arguments == ["--name=env", "$(NAME)", "$(UNKNOWN)"]
    assert folder == "/tmp"


async def _line(pods: Pods, name: str) -> str | None:
    text = await pods.logs(name)
    return text.splitlines()[0] if text.endswith("\n") else None


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

    assert await eventually(lambda: _line(pods, "volumes"), "a line of log") == "12volumes read-onlyy"
    assert "made-up" not in os.listdir("/")  # noqa: PTH208 - Path's methods are refused in async functions


async def test_read_only_root_leaves_only_the_volumes_writable(pods: Pods) -> None:
    script = (
        "for f in /tmp/x /var/x /made-up-x $HOME/x /state/x; do touch $f 2>/dev/null && printf '%s ' $f; done; echo;"
        "exec sleep 1000"
    )
    body = pod("frozen", shell(script), securityContext={"readOnlyRootFilesystem": True}, **_state())

    await pods.running(body)

    assert await eventually(lambda: _line(pods, "frozen"), "a line of log") == "/state/x "


async def test_without_mount_trees_paths_are_rewritten(pods: Pods, cluster: Cluster, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "localcluster.kubelet", "--kubeconfig", str(cluster.kubeconfig), "--nodes", "1"),
        *("--root", str(tmp_path / "flat"), "--prefix", f"{pods.namespace}-", "--no-isolation"),
    ]
    node = f"{pods.namespace}-0"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "hack")}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        script = "echo $WHERE > /state/log; cat /state/log; echo /stateless; exec sleep 1000"
        body = pod("flat", shell(script), env=[{"name": "WHERE", "value": "/state/deep"}], **_state())
        body["spec"]["nodeName"] = node
        await pods.running(body)

        where, other = (tmp_path / "flat" / "pods" / body_uid(await pods.get("flat"))), "/stateless"

        async def look() -> bool:
            return await pods.logs("flat") == f"{where}/volumes/state/deep\n{other}\n"

        await eventually(look, "the volume's real path in environment and arguments")
        await pods.api.delete(PODS, pods.namespace, "flat")
        await pods.gone("flat")
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await pods.api.delete(NODES, None, node)


def body_uid(body: Json) -> str:
    return str(body["metadata"]["uid"])


async def test_token_is_bound_to_the_pod_and_works_in_cluster(pods: Pods) -> None:
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


async def test_missing_config_map_holds_the_start_until_it_is_there(pods: Pods, api: Client) -> None:
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


async def test_ready_follows_the_readiness_probe_and_gates(pods: Pods, api: Client) -> None:
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

    marker = (await _folder(pods, "probed")) / "volumes" / "state" / "ok"
    marker.touch()
    await pods.until("probed", lambda body: condition(body, "ContainersReady") == "True", "has ready containers")
    assert not is_ready(await pods.get("probed"))

    gate = {"type": "example.com/gate", "status": "True"}
    await api.patch(
        PODS,
        pods.namespace,
        "probed",
        {"status": {"conditions": [gate]}},
        content_type="application/strategic-merge-patch+json",
        subresource="status",
    )
    await pods.until("probed", is_ready, "is Ready")

    marker.unlink()
    await pods.until("probed", lambda body: not is_ready(body), "is not Ready")


async def _folder(pods: Pods, name: str) -> Path:
    for entry in await pods.faults.pods():
        if entry["pod"] == pods.key(name):
            return Path(entry["folder"])
    raise AssertionError(f"{name} does not run")


async def test_failing_liveness_probe_restarts_the_container(pods: Pods) -> None:
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
    marker = (await _folder(pods, "sick")) / "volumes" / "state" / "sick"

    marker.touch()

    await pods.until("sick", lambda body: restarts(body) >= 1, "is restarted")


async def test_container_restarts_on_exit_with_its_code_and_times_on_record(pods: Pods) -> None:
    script = "test -e /state/again && exec sleep 1000; touch /state/again; sleep 1; exit 7"
    mounts = [{"name": "state", "mountPath": "/state"}]
    spec = {"volumes": [{"name": "state", "emptyDir": {}}]}

    await pods.create(pod("restarts", shell(script), spec=spec, volumeMounts=mounts))
    body = await pods.until("restarts", lambda body: restarts(body) == 1 and is_ready(body), "runs again")
    ended = main_status(body)["lastState"]["terminated"]

    assert (ended["exitCode"], ended["reason"]) == (7, "Error")
    assert ended["startedAt"] < ended["finishedAt"] <= main_status(body)["state"]["running"]["startedAt"]
    assert ended["containerID"] != main_status(body)["containerID"]


async def test_crash_loop_backs_off_and_keeps_the_last_log(pods: Pods) -> None:
    await pods.create(pod("loops", shell("echo attempt; exit 3")))

    body = await pods.until(
        "loops",
        lambda body: main_status(body).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "backs off",
    )

    assert main_status(body)["lastState"]["terminated"]["exitCode"] == 3
    assert await pods.logs("loops") == "attempt\n"


async def test_what_goes_wrong_is_told_in_events(pods: Pods) -> None:
    await pods.create(pod("troubled", shell("exit 3")))

    async def look() -> bool:
        events = await pods.api.list(EVENTS, pods.namespace, fields="involvedObject.name=troubled,type=Warning")
        return any(isinstance(event, dict) and event["reason"] == "BackOff" for event in events[0])

    await eventually(look, "a BackOff event")


async def test_killed_shim_leaves_no_process(pods: Pods) -> None:
    pids = await _tree(pods, "shimless", "deaf")
    shim = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240

    os.kill(shim, signal.SIGKILL)
    await pods.until("shimless", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert not any(alive(pid) for pid in pids)


async def test_command_not_found_is_a_start_error(pods: Pods) -> None:
    await pods.create(pod("typo", ["no-such-command"], spec={"restartPolicy": "Never"}))

    body = await pods.until("typo", lambda body: body.get("status", {}).get("phase") == "Failed", "failed")

    ended = main_status(body)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert "no-such-command" in ended["message"]


@pytest.mark.parametrize(("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 4, "Failed")])
async def test_phase_tells_how_a_pod_ended(pods: Pods, policy: str, code: int, phase: str) -> None:
    await pods.create(pod("ends", shell(f"exit {code}"), spec={"restartPolicy": policy}))

    body = await pods.until("ends", lambda body: body.get("status", {}).get("phase") == phase, phase)

    assert main_status(body)["state"]["terminated"]["exitCode"] == code
    assert not is_ready(body)


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

    assert await eventually(lambda: _line(pods, "init"), "a line of log") == "1s2"
    assert len(await pods.pids("init")) == 2


TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "deaf" else lambda *a: sys.exit(9))
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    time.sleep(1000)
print("up", flush=True)
time.sleep(1000)
"""


async def _tree(pods: Pods, name: str, manner: str, **spec: Any) -> list[int]:
    """A pod whose main process has a child and a grandchild in sessions of their own; their pids."""
    await pods.running(pod(name, [sys.executable, "-c", TREE, manner], spec=spec))

    async def look() -> list[int] | None:
        pids = await pods.pids(name)
        return pids if len(pids) == 3 else None

    return await eventually(look, "three processes")


async def test_deletion_sends_term_and_leaves_no_process(pods: Pods, api: Client) -> None:
    pids = await _tree(pods, "tree", "polite")

    await api.delete(PODS, pods.namespace, "tree")
    await pods.gone("tree", within=3)

    assert not any(alive(pid) for pid in pids)


async def test_process_deaf_to_term_is_killed_after_the_grace_period(pods: Pods, api: Client) -> None:
    pids = await _tree(pods, "deaf", "deaf", terminationGracePeriodSeconds=2)
    begun = time.monotonic()

    await api.delete(PODS, pods.namespace, "deaf")
    await pods.gone("deaf")

    assert 1.9 < time.monotonic() - begun < 4
    assert not any(alive(pid) for pid in pids)


async def test_orphans_end_with_the_main_process(pods: Pods) -> None:
    pids = await _tree(pods, "orphans", "polite")

    killed = await pods.faults.kill_pod(pods.key("orphans"))
    await pods.until("orphans", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert killed == pids[:1]
    assert not any(alive(pid) for pid in pids)
    ended = main_status(await pods.get("orphans"))["lastState"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (137, 9)


async def test_forced_deletion_ends_the_processes_too(pods: Pods, api: Client) -> None:
    pids = await _tree(pods, "forced", "deaf", terminationGracePeriodSeconds=1)

    await api.delete(PODS, pods.namespace, "forced", grace_period_seconds=0)
    await pods.gone("forced", within=1)

    async def look() -> bool:
        return not any(alive(pid) for pid in pids)

    await eventually(look, "no process is left", within=5)


async def test_pre_stop_hook_runs_before_term(pods: Pods, api: Client) -> None:
    script = "trap 'cat /state/log > /state/seen; exit 0' TERM; while :; do sleep 0.1; done"
    hook = {"preStop": {"exec": {"command": shell("echo hook > /state/log")}}}
    holder = {"name": "holder", "image": "none", "command": shell("trap '' TERM; sleep 4; cat /state/seen")}
    mounts = [{"name": "state", "mountPath": "/state"}]
    body = pod(
        "hooked",
        shell(script),
        spec={"volumes": [{"name": "state", "emptyDir": {}}]},
        volumeMounts=mounts,
        lifecycle=hook,
    )
    body["spec"]["containers"].append({**holder, "volumeMounts": mounts})
    await pods.running(body)
    seen = (await _folder(pods, "hooked")) / "volumes" / "state" / "seen"

    await api.delete(PODS, pods.namespace, "hooked")

    async def look() -> bool:
        return seen.exists() and seen.read_text() == "hook\n"

    await eventually(look, "the hook's work seen by the TERM handler", within=4)


async def test_pause_stops_every_process_until_resumed(pods: Pods) -> None:
    await pods.running(pod("pauses", shell("while :; do date +%s%N > /state/beat; sleep 0.02; done"), **_state()))
    beat = (await _folder(pods, "pauses")) / "volumes" / "state" / "beat"

    await pods.faults.pause_pod(pods.key("pauses"))
    stopped = [state(pid) for pid in await pods.pids("pauses")]
    before = beat.read_text()

    assert stopped[0] in "TD"
    assert set(stopped) <= {"T", "D"}  # the shell may wait for a vfork child that is stopped
    assert is_ready(await pods.get("pauses"))

    await pods.faults.resume_pod(pods.key("pauses"))

    async def look() -> bool:
        return beat.read_text() not in ("", before)

    await eventually(look, "it goes on", within=2)


def _state() -> Json:
    return {
        "spec": {"volumes": [{"name": "state", "emptyDir": {}}]},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }


@pytest.mark.parametrize("mode", ["drop", "reset"])
async def test_cut_pod_runs_on_without_the_api_server(pods: Pods, mode: Any) -> None:
    script = (
        "while :; do if timeout 1 kubectl get --raw /version >/dev/null 2>&1; then echo yes; else echo no; fi "
        ">> /state/log; sleep 0.05; done"
    )
    await pods.running(pod("cut", shell(script), **_state()))
    log = (await _folder(pods, "cut")) / "volumes" / "state" / "log"

    async def says(word: str) -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        return bool(lines) and lines[-1] == word

    await eventually(lambda: says("yes"), "it reaches the API server")
    await pods.faults.cut_pod(pods.key("cut"), mode)
    await eventually(lambda: says("no"), "it reaches it no more")
    assert is_ready(await pods.get("cut"))

    await pods.faults.heal_pod(pods.key("cut"))
    await eventually(lambda: says("yes"), "it reaches it again")


async def test_killed_node_is_lost_and_its_pods_start_anew_when_it_is_back(pods: Pods, api: Client) -> None:
    body = await pods.running(pod("on-node", SLEEP, spec={"tolerations": [{"operator": "Exists"}]}))
    node, pids = body["spec"]["nodeName"], await pods.pids("on-node")

    await pods.faults.kill_node(node)
    try:
        assert not any(alive(pid) for pid in pids)
        assert is_ready(await pods.get("on-node"))

        async def lost() -> bool:
            return condition(await api.get(NODES, None, node), "Ready") == "Unknown"

        await eventually(lost, "the node is NotReady", within=40)
        await pods.until("on-node", lambda found: not is_ready(found), "is not Ready")
    finally:
        await pods.faults.heal_node(node)

    async def back() -> bool:
        return condition(await api.get(NODES, None, node), "Ready") == "True"

    await eventually(back, "the node is Ready")
    await pods.until("on-node", lambda found: is_ready(found) and restarts(found) == 1, "runs again")


async def test_cut_node_runs_its_pods_on_and_learns_of_deletions_when_healed(pods: Pods, api: Client) -> None:
    stays = await pods.running(pod("stays", SLEEP))
    node = stays["spec"]["nodeName"]
    await pods.running(pod("goes", SLEEP, spec={"nodeName": node}))
    kept, doomed = await pods.pids("stays"), await pods.pids("goes")

    await pods.faults.cut_node(node)
    try:
        await api.delete(PODS, pods.namespace, "goes", grace_period_seconds=0)
        await pods.gone("goes")
        assert all(alive(pid) for pid in kept + doomed)
    finally:
        await pods.faults.heal_node(node)

    async def look() -> bool:
        return not any(alive(pid) for pid in doomed)

    await eventually(look, "the deleted pod's processes are gone")
    assert all(alive(pid) for pid in kept)


async def test_logs_can_be_followed_and_cut_short(pods: Pods) -> None:
    await pods.running(pod("talks", shell("for i in 1 2 3 4 5; do echo $i; done; exec sleep 1000")))

    async def look() -> bool:
        return (await pods.logs("talks")).endswith("5\n")

    await eventually(look, "five lines")
    assert await pods.logs("talks", "--tail=2") == "4\n5\n"
    assert await pods.logs("talks", "--limit-bytes=3") == "1\n2"


async def test_followed_log_ends_with_its_container(pods: Pods) -> None:
    await pods.running(pod("finishes", shell("echo one; sleep 1; echo two"), spec={"restartPolicy": "Never"}))

    assert await pods.logs("finishes", "--follow") == "one\ntwo\n"


async def test_last_runs_log_is_kept(pods: Pods) -> None:
    script = "echo run >> /state/runs; wc -l < /state/runs; exec sleep 1000"
    await pods.running(pod("again", shell(script), **_state()))
    assert await eventually(lambda: _line(pods, "again"), "a line of log") == "1"

    await pods.faults.kill_pod(pods.key("again"))
    await pods.until("again", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert (await pods.logs("again", "--previous")).strip() == "1"
    assert await eventually(lambda: _line(pods, "again"), "a line of log") == "2"


async def test_faults_name_what_is_missing(faults: Faults, cluster: Cluster) -> None:
    with pytest.raises(FaultRefusedError, match="pod default/nobody does not run on this kubelet"):
        await faults.kill_pod("default/nobody")
    with pytest.raises(FaultRefusedError, match="there is no node moon"):
        await faults.cut_node("moon")
    with pytest.raises(ClusterError, match="not found"):
        cluster.kubectl("get", "pod", "nobody")
