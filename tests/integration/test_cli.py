"""``kubectl hub`` against the product at work: the output and exit code of each verb, and the messages for mistakes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml
from hubcli import Cli
from livehub import SLEEP, Live, live
from waiting import alive, eventually

from localcluster.cluster import Cluster
from processhub import __version__
from processhub.cluster.client import Client
from processhub.cluster.kinds import PODS, untyped
from processhub.cluster.kubeconfig import read_config

HUB = "shop"
TALK = "echo out; echo err >&2; i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.1; done"


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        await running.hub(HUB, children=[{"id": "fixed", "exec": SLEEP}])
        async with running.connect(HUB) as hub:
            await hub.wait_children(["fixed"], timeout=40)
        yield running


@pytest.fixture
def cli(product: Live) -> Cli:
    return Cli(product, HUB)


async def test_a_started_child_is_listed_found_explained_and_stopped(cli: Cli) -> None:
    started = await cli("start story a/b --wait --tag eu --exec -- sleep 1000")
    assert started.code == 0, started.err
    assert "story running on shop-" in started.out

    listed = {row[0]: row for row in (await cli("list")).rows}
    assert listed["story"][3] == "Running"
    pid = int(listed["story"][4])
    assert alive(pid)

    ((found, member, pod, _, role, state, where_pid),) = (await cli("where story")).rows
    assert (found, role, state, int(where_pid)) == ("story", "Active", "Running", pid)
    assert pod == member
    assert (await cli("where story -o json")).json["nodes"][0]["pid"] == pid
    assert "story" in {entry["id"] for entry in (await cli(f"list --member {member} -o json")).json}
    assert "story" not in (await cli(f"list --member {({'shop-0', 'shop-1'} - {member}).pop()}")).out

    looked_up = yaml.safe_load((await cli("lookup story")).out)
    assert looked_up["spec"]["exec"]["command"] == ["sleep", "1000"]
    assert looked_up["spec"]["tags"] == ["eu"]

    async def placed() -> str | None:
        """Explain the child once the Child's status shows its placement."""
        said = (await cli("explain story")).out
        return said if "Placed     True     Placed" in said else None

    explained = await eventually(placed, "the condition Placed")
    assert f"Member:    {member} (Running, pid {pid}" in explained
    assert f"{member} has the highest score of the 2 members" in explained or "choice number 2" in explained
    told = (await cli("explain story -o json")).json
    assert [choice["member"] for choice in told["candidates"]] in (["shop-0", "shop-1"], ["shop-1", "shop-0"])

    stopped = await cli("stop story a/b --wait")
    assert (stopped.code, stopped.out.splitlines()[0]) == (0, "story stopped")
    assert not alive(pid)
    assert (await cli("where story")).code == 1


async def test_json_yaml_and_name_outputs_can_be_parsed(cli: Cli, product: Live) -> None:
    await product.child("another-name", HUB, id="made/elsewhere")
    assert (await cli("await made/elsewhere")).code == 0

    assert "child/another-name" in (await cli("list -o name")).out.splitlines()
    assert (await cli("where made/elsewhere -o name")).out == "child/another-name\n"
    assert yaml.safe_load((await cli("list -o yaml")).out) == (await cli("list -o json")).json
    assert (await cli("dump")).json["made/elsewhere"]["spec"]["hub"] == HUB
    assert (await cli("stop made/elsewhere --wait -o json")).json == {"stopped": ["made/elsewhere"], "errors": {}}


async def test_the_members_of_a_hub_are_listed(cli: Cli) -> None:
    rows = (await cli("members")).rows
    assert [row[:2] for row in rows] == [["shop-0", "True"], ["shop-1", "True"]]
    assert {member["name"] for member in (await cli("members -o json")).json} == {"shop-0", "shop-1"}


async def test_children_are_started_from_a_file_and_from_stdin(cli: Cli, tmp_path: Path) -> None:
    manifest = yaml.safe_dump(
        {
            "apiVersion": "processhub.dev/v1alpha1",
            "kind": "Child",
            "metadata": {"name": "filed"},
            "spec": {"hub": HUB, "exec": SLEEP},
        }
    )
    (tmp_path / "child.yaml").write_text(manifest)

    filed = await cli(f"start --wait -f {tmp_path / 'child.yaml'}")
    assert filed.code == 0, filed.err
    piped = await cli("start piped-1 piped-2 --wait -f -", stdin="exec: {command: [sleep, '1000']}")
    assert piped.code == 0, piped.err
    assert (await cli("await filed piped-1 piped-2")).code == 0
    assert (await cli("stop filed piped-1 piped-2 --wait")).code == 0


async def test_a_failed_start_names_each_child_and_its_reason(cli: Cli) -> None:
    failed = await cli("start wrong-1 wrong-2 --wait --exec -- /no/such/program")

    assert failed.code == 1
    lines = failed.err.splitlines()
    assert [line.partition(" not started: CommandNotFound: ")[0] for line in lines] == [
        "error: child wrong-1",
        "error: child wrong-2",
    ]
    assert (await cli("stop wrong-1 wrong-2 --wait")).code == 0


async def test_a_rollback_names_the_removed_children_and_leaves_none(cli: Cli, product: Live) -> None:
    both = "id: good-one\nexec: {command: [sleep, '1000']}\n---\nid: bad-one\nexec: {command: [/no]}"

    failed = await cli("start -f - --wait --on-failure rollback", stdin=both)

    assert failed.code == 1
    assert "error: child bad-one not started: CommandNotFound" in failed.err
    assert "rolled back: 2 children removed again" in failed.err
    assert not {"good-one", "bad-one"} & (await product.children(HUB)).keys()


async def test_an_interrupted_start_with_rollback_leaves_no_child(cli: Cli, product: Live) -> None:
    empty = await product.hub(replicas=0, ready=False)
    process = await cli.begin(
        *("start", "cut-1", "cut-2", "--hub", empty, "--wait", "--timeout", "120", "--on-failure", "rollback"),
        *("--exec", "--", "sleep", "9"),
    )

    async def created() -> bool:
        return len(await product.children(empty)) == 2

    await eventually(created, "children created", within=30)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 130
    assert out == b""
    assert err.decode().splitlines() == ["start was interrupted; what this call had started was removed", "interrupted"]
    assert not await product.children(empty)


async def test_logs_show_only_the_lines_of_the_child(cli: Cli) -> None:
    assert (await cli("start chatty quiet --wait --exec -- sh -c", TALK)).code == 0

    async def ticking() -> bool:
        return "tick 3" in (await cli("logs chatty")).out

    await eventually(ticking, "lines in the log", within=30)
    lines = (await cli("logs chatty")).out.splitlines()
    assert {"out", "err", "tick 1"} <= set(lines[:5])  # two pipes: the order of their lines is not guaranteed
    assert len((await cli("logs chatty --tail 2")).out.splitlines()) == 2
    line = json.loads((await cli("logs chatty -o json --tail 1")).out)
    assert (line["child"], line["hub"], line["stream"]) == ("chatty", HUB, "stdout")

    process = await cli.begin("logs", "chatty", "-f", "--tail", "1")
    ticks = [int((await asyncio.wait_for(process.stdout.readline(), 30)).split()[1]) for _ in range(4)]
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    assert ticks == list(range(ticks[0], ticks[0] + 4))
    assert (await cli("stop chatty quiet --wait")).code == 0


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
async def test_reading_a_rotated_log_prints_a_warning(cli: Cli, product: Live, level: str) -> None:
    agent = {"name": "agent", "env": [{"name": "PROCESSHUB_LOG_LEVEL", "value": level}]}
    name = await product.hub(replicas=1, members={"template": {"spec": {"containers": [agent]}}})
    assert (await cli(f"start silent --hub {name} --wait --exec -- sleep 1000")).code == 0
    assert (await cli(f"start once --hub {name} --wait --exec -- sh -c", "echo once; sleep 1000")).code == 0
    assert (await cli(f"start chatty --hub {name} --wait --exec -- sh -c", TALK)).code == 0

    async def ticking() -> bool:
        return "tick 25" in (await cli(f"logs chatty --hub {name}")).out

    await eventually(ticking, "lines in the log", within=30)
    assert (await cli(f"logs once --hub {name}")).out == "once\n"
    quiet = await cli(f"logs silent --hub {name}")
    assert (quiet.out, quiet.err, quiet.code) == ("", f"child 'silent' has printed nothing on {name}-0 so far\n", 0)

    pod = await product.api.get(PODS, product.namespace, f"{name}-0")
    (log,) = (product.cluster.layout.kubelet_root / "pods" / pod.metadata.uid / "logs" / "agent").iterdir()
    log.write_bytes(b"".join(line for line in log.read_bytes().splitlines(True)[-5:] if b'"tick ' in line))

    gone = await cli(f"logs once --hub {name}")
    assert (gone.out, gone.code) == ("", 1)
    assert gone.err.startswith(f"error: the log of pod {name}-0 begins at ")
    assert gone.err.endswith("keeps only the newest lines of all children, and none is of this one; a collector of logs"
                             " keeps all\n")  # fmt: skip
    rest = await cli(f"logs chatty --hub {name}")
    assert rest.out.startswith("tick ")
    assert (rest.err.startswith("warning: the log of pod"), rest.code) == (True, 0)


async def test_a_waiting_call_prints_at_once_why_the_child_does_not_run(cli: Cli, product: Live) -> None:
    await product.child("lazy", HUB, suspend=True)

    answer = await cli("call lazy {} --timeout 3")

    why = "Suspended: spec.suspend is true"
    assert answer.code == 124
    assert answer.err.splitlines() == [
        f"child 'lazy' does not run: {why}; waiting until it does",
        f"error: child 'lazy' has not answered within 3 s ({why}); it may still carry out the request",
    ]
    assert (await cli("stop lazy --wait")).code == 0


async def test_a_list_is_watched_until_it_is_interrupted(cli: Cli) -> None:
    process = await cli.begin("list", "-w", "--tag", "seen", "-o", "name")
    assert (await cli("start hidden --wait --exec -- sleep 1000")).code == 0
    assert (await cli("start shown --tag seen --wait --exec -- sleep 1000")).code == 0
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"child/shown\n"
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert process.returncode == 130
    everywhere = (await cli("list -A --hub shop -o json")).json
    assert {(one["namespace"], one["hub"]) for one in everywhere} == {(cli.product.namespace, HUB)}
    assert (await cli("stop hidden shown --wait")).code == 0


async def test_the_page_follows_the_hub_and_answers_only_to_localhost(cli: Cli) -> None:
    process = await cli.begin("ui", "--port", "0")
    address = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    assert address.startswith("http://127.0.0.1:")
    port = address.rstrip("/").rpartition(":")[2]

    async with aiohttp.ClientSession() as session:

        async def get(path: str, **headers: str) -> tuple[int, str]:
            async with session.get(address + path, headers=headers) as answer:
                assert "default-src 'none'" in answer.headers.get("Content-Security-Policy", "") or answer.status == 403
                return answer.status, await answer.text()

        assert "<script src=" in (await get(""))[1]
        assert (await get("ui.js", Host=f"localhost:{port}"))[0] == 200
        assert (await get("hubs.json", Host=f"evil.example:{port}"))[0] == 403
        async with session.post(f"{address}hubs.json") as answer:
            assert answer.status == 405
        assert (await cli("start onpage --wait --exec -- sleep 1000")).code == 0

        async def there() -> bool:
            (hub,) = json.loads((await get("hubs.json?filter=onpa"))[1])
            return [(one["id"], one["nodes"][0]["state"]) for one in hub["registry"]] == [("onpage", "Running")]

        await eventually(there, "the new child is on the page", within=30)
    taken = await cli(f"ui --port {port}")
    assert (taken.code, taken.err.partition(":")[0]) == (1, "error")
    assert "name another with --port" in taken.err
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    assert (await cli("stop onpage --wait")).code == 0


async def test_kubectls_connection_options_override_the_kubeconfig(cli: Cli, product: Live, tmp_path: Path) -> None:
    """A server, its certificates and an exec plug-in are given as options only, and kubectl is not on PATH."""
    config = await read_config(None, product.kubeconfig)
    (tmp_path / "ca.crt").write_bytes(config.credentials.authority)
    credential = {
        "clientCertificateData": config.credentials.certificate.decode(),
        "clientKeyData": config.credentials.key.decode(),
    }
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": credential}
    (tmp_path / "answer").write_text(json.dumps(answer))
    plugin = {"apiVersion": version, "command": "/bin/cat", "args": [str(tmp_path / "answer")]}
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(json.dumps({"users": [{"name": "u", "user": {"exec": plugin}}]}))
    program = shutil.which("kubectl-hub", path=product.cluster.environment()["PATH"])
    assert program is not None
    options = f"--server {config.host} --certificate-authority {tmp_path / 'ca.crt'} --user u --request-timeout 20s"

    process = await cli.begin(
        *f"status {options} -o json".split(), program=(program,), KUBECONFIG=str(kubeconfig), PATH=str(tmp_path)
    )
    out, err = await process.communicate()
    assert (err, process.returncode) == (b"", 0)
    assert json.loads(out)["hub"] == HUB
    versions = await cli(f"version {options} -o json", KUBECONFIG=str(kubeconfig))
    assert versions.json["client"] == __version__
    assert versions.json["server"].startswith("v1.")


async def test_shell_completion_completes_ids(cli: Cli) -> None:
    asked = {"_KUBECTL_HUB_COMPLETE": "complete_bash", "COMP_WORDS": "kubectl-hub where fi", "COMP_CWORD": "2"}

    assert (await cli("ignored", **asked)).out == "fixed\n"


async def test_exec_runs_a_command_beside_a_child_with_its_environment(cli: Cli) -> None:
    spec = {"exec": {"command": ["sleep", "1000"], "env": [{"name": "COLOUR", "value": "blue"}], "workingDir": "/tmp"}}
    python = {"python": {"target": "processhub.examples:Counter"}}
    assert (await cli("start beside --wait -f -", stdin=json.dumps(spec))).code == 0
    assert (await cli("start beside-python --wait -f -", stdin=json.dumps(python))).code == 0
    show = 'echo "$HUB_CHILD_ID $HUB_MEMBER $COLOUR $PWD $HUB_EPOCH"; echo trouble >&2; exit 7'

    ran = await cli("exec beside -- sh -c", show)
    (_, member, *_), *_ = (await cli("where beside")).rows
    assert (ran.code, ran.err) == (7, "trouble\n")
    assert ran.out.split()[:4] == ["beside", member, "blue", "/tmp"]
    assert int(ran.out.split()[4]) > 0
    assert (await cli("exec beside-python -- sh -c", show)).out.split()[0] == "beside-python"
    missing = await cli("exec beside -- no-such-program")
    assert (missing.code, missing.err) == (
        127,
        "error: no-such-program: there is no such program in the member's container\n",
    )
    assert (await cli("exec nobody --hub shop -- true")).err.startswith("error: no child 'nobody' in hub shop")
    assert (await cli("stop beside beside-python --wait")).code == 0


async def test_a_pod_child_is_shown_like_any_other_and_its_log_is_the_log_of_its_pod(cli: Cli) -> None:
    containers = [{"name": "main", "image": "none", "command": ["sh", "-c", TALK]}]
    spec = {"pod": {"template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": containers}}}}

    started = await cli("start in-a-pod --wait --timeout 60 -f -", stdin=json.dumps(spec))
    assert (started.code, started.err) == (0, "")
    assert started.out.startswith("in-a-pod running on shop-")
    assert "pid" not in started.out

    (where,) = (await cli("where in-a-pod")).rows
    assert where[-2:] == ["Running", "<none>"], "there is no pid of ours"
    assert where[2] not in ("shop-0", "shop-1", "shop-2"), "the pod is its own"
    assert (await cli("lookup in-a-pod -o json")).json["nodes"][0]["pid"] == 0

    async def ticking() -> bool:
        return "tick 3" in (await cli("logs in-a-pod")).out

    await eventually(ticking, "lines in the log", within=30)
    assert len((await cli("logs in-a-pod --tail 2")).out.splitlines()) == 2
    explained = (await cli("explain in-a-pod")).out
    assert "(Running, epoch " in explained
    ran = await cli("exec in-a-pod -- sh -c", "echo $HUB_CHILD_ID")
    assert (ran.out, ran.err, ran.code) == ("in-a-pod\n", "", 0)
    assert (await cli("stop in-a-pod --wait --timeout 60")).code == 0


async def test_a_per_node_member_is_shown_with_its_pod(cli: Cli, product: Live) -> None:
    name = await product.hub(replicas=3, members={"mode": "PerNode"})
    assert (await cli(f"start on-node --hub {name} --wait --exec -- sh -c", TALK)).code == 0

    ((_, member, pod, node, *_),) = (await cli(f"where on-node --hub {name}")).rows
    assert member == node
    assert pod.startswith(f"{name}-")
    assert pod != member

    async def ticking() -> bool:
        return "tick 1" in (await cli(f"logs on-node --hub {name}")).out

    await eventually(ticking, "lines in the log", within=30)
    assert (await cli(f"stop on-node --hub {name} --wait")).code == 0


async def test_a_plan_against_the_live_hub_changes_nothing(cli: Cli, product: Live) -> None:
    ids = [f"planned-{index}" for index in range(20)]
    assert (await cli("start --wait --exec --".replace("start", f"start {' '.join(ids)}"), "sleep", "1000")).code == 0
    before = (await cli("list -o json")).json

    added = (await cli("plan --add 1 -o json")).json
    removed = (await cli("plan --remove shop-1 -o json")).json

    assert {move["to"] for move in added["moves"]} == {"shop-2"}
    assert {move["from"] for move in removed["moves"]} == {"shop-1"}
    assert removed["members"]["shop-1"]["after"] == 0
    assert "nothing was changed" in (await cli("plan")).out
    assert [entry["id"] for entry in (await cli("list -o json")).json] == [entry["id"] for entry in before]
    assert (await cli(f"stop {' '.join(ids)} --wait")).code == 0


async def test_the_program_works_as_a_plugin_of_kubectl(cli: Cli, product: Live) -> None:
    process = await cli.begin("list", "-n", product.namespace, program=("kubectl", "hub"))
    out, err = await process.communicate()

    assert process.returncode == 0, err
    assert out.decode().startswith("ID ")


async def test_the_hub_may_be_omitted_if_it_is_unambiguous(cli: Cli, product: Live) -> None:
    other = await product.hub(replicas=1)
    await product.child("only-here", other)

    assert (await cli("await only-here", HUB_NAME="")).code == 0
    assert (await cli("where only-here", HUB_NAME="")).code == 0
    assert (await cli("where fixed", HUB_NAME="")).code == 0
    assert (await cli(f"list --member {other}-0", HUB_NAME="")).code == 0
    assert (await cli("members", HUB_NAME=other)).rows[0][0] == f"{other}-0"
    unclear = await cli("list", HUB_NAME="")
    assert unclear.code == 2
    assert unclear.err.startswith(f"error: which hub of namespace {product.namespace}? name one with --hub: ")
    assert {HUB, other} <= set(unclear.err.split(": ")[-1].strip().split(", "))


@pytest_asyncio.fixture(scope="module")
async def accounts(product: Live, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kubeconfigs that fail: an unreachable server, an account or user without rights, an invalid token."""
    tokens = untyped("v1", "serviceaccounts").path(product.namespace, "default", "token")
    answer = await product.api.raw(
        "POST", tokens, body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    )
    host = product.api.config.host
    folder = tmp_path_factory.mktemp("accounts")

    def written(name: str, server: str, token: str) -> str:
        path = folder / name
        cluster = {"server": server, "insecure-skip-tls-verify": True}
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path.write_text(json.dumps(config))
        return str(path)

    disguised = yaml.safe_load(Path(product.kubeconfig).read_text())  # noqa: ASYNC240 a small local file
    for user in disguised["users"]:
        user["user"]["as"] = "nobody"
    (folder / "disguised").write_text(json.dumps(disguised))
    return {
        "disguised": str(folder / "disguised"),
        "nobody": written("nobody", host, json.loads(answer)["status"]["token"]),
        "stranger": written("stranger", host, "no-such-token"),
        "nowhere": written("nowhere", "https://127.0.0.1:9", ""),
    }


BAD: list[tuple[str, str, int]] = [
    ("list --hub nope", "error: hub nope not found in namespace {ns}; there are: ", 1),
    ("list -n empty-{ns}", "error: no hub in namespace empty-{ns}; create one, or name another namespace with -n", 1),
    ("list --hub nope -n empty-{ns}", "there is none in this namespace", 1),
    ("list --hub shop --member shop-9", "error: hub shop has no member 'shop-9'; it has shop-0, shop-1", 1),
    ("where nobody --hub shop", "error: no child 'nobody' in hub shop of namespace {ns}", 1),
    ("lookup nobody --hub shop", "error: no child 'nobody' in hub shop", 1),
    ("explain nobody --hub shop", "error: no child 'nobody' in hub shop", 1),
    ("logs nobody --hub shop", "error: no child 'nobody' in hub shop", 1),
    ("stop nobody --hub shop", "error: child nobody not stopped: NotFound: no child 'nobody' in hub shop", 1),
    ("await nobody --hub shop", "error: child nobody not started: NotFound: no child 'nobody' in hub shop", 1),
    ("stop fixed --hub shop", "StaticChild: is a static child of hub shop; remove it from the hub's spec.children", 1),
    ("start fixed --hub shop --python m:C", "error: child fixed not started: AlreadyStarted: child/", 1),
    ("start {long} --hub shop --python m:C", "error: children[0].id: 300 bytes of UTF-8 are too many; shorten it", 2),
    ("start a\nb --hub shop --python m:C", "error: children[0].id: 'a\\nb' contains control characters", 2),
    ("start x x --hub shop --python m:C", "error: children[1]: id 'x' appears twice; name each id once in a call", 2),
    (
        "start x --node shop-0 --hub shop --python m:C",
        "InvalidChildMapping: nodes are given, but hub shop places by",
        1,
    ),
    ("start x --hub guided --python m:C", "error: hub guided is Guided, and these children have no nodes: x", 1),
    ("start x --node a --node b --hub guided --python m:C", "ChildReplicationMismatch: 2 nodes are given", 1),
    ("start x --node guided-9 --hub guided --wait --python m:C", "the hub has no member 'guided-9'; its members", 1),
    ("start late --hub empty --wait --timeout 1 --python m:C", "Timeout: was not running within", 124),
    ("where waits --hub guided", "error: child 'waits' of hub guided is not placed: ", 1),
    ("await waits --hub guided", "error: child waits not started: InvalidChildMapping: ", 1),
    ("await fixed --hub empty --timeout 1", "error: child fixed not started: Timeout: ", 124),
    ("plan --remove shop-9 --hub shop", "error: hub shop has no member 'shop-9' to remove; it has shop-0, shop-1", 2),
    ("list --context nope", "has no context 'nope'; it has", 1),
    ("list --kubeconfig {nobody}", "error: hubs of namespace {ns} can't be listed: ", 1),
    ("list --hub shop --kubeconfig {nobody}", "ask for the role view in that namespace", 1),
    ("list --hub shop --as nobody", "ask for the role view in that namespace", 1),
    ("list --hub shop --kubeconfig {disguised}", "ask for the role view in that namespace", 1),
    ("drain shop-0 --hub shop --as viewer", "ask for the role edit in that namespace", 1),
    ("list -A --as viewer", "ask for the role view in all namespaces, or name one", 1),
    ("where GOCOUNTER", "error: no hub of namespace {ns} has a child 'GOCOUNTER'; it has the hubs ", 1),
    ("list --kubeconfig {stranger}", "the credentials are not valid", 1),
    ("list --kubeconfig {nowhere}", "the API server does not answer", 1),
]


@pytest_asyncio.fixture(scope="module")
async def guided(product: Live) -> str:
    """A guided hub with a child whose member does not exist, a hub without members, and a user who may only read."""
    kinds = ",".join(f"{kind}.processhub.dev" for kind in ("hubs", "children", "childsets", "registryslices"))
    await product.kubectl("create", "role", "viewer", "--verb=get,list,watch", f"--resource={kinds}")
    await product.kubectl("create", "rolebinding", "viewer", "--role=viewer", "--user=viewer")
    await product.hub("empty", replicas=0, ready=False, children=[{"id": "fixed", "exec": SLEEP}])
    name = await product.hub("guided", replicas=1, distribution={"strategy": "Guided"})
    await product.child("waits", name, nodes=["guided-7"])
    return name


@pytest.mark.usefixtures("guided")
@pytest.mark.parametrize(("line", "sentence", "code"), BAD, ids=[row[0] for row in BAD])
async def test_a_mistake_prints_one_sentence_and_has_its_exit_code(
    cli: Cli, accounts: dict[str, str], line: str, sentence: str, code: int
) -> None:
    names = {"ns": cli.product.namespace, "long": "i" * 300, **accounts}

    answer = await cli(line.format(**names), HUB_NAME="")

    assert answer.code == code, answer.err
    assert sentence.format(**names) in answer.err
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert answer.out == ""


async def test_a_broken_pipe_is_no_error(cli: Cli) -> None:
    process = await cli.begin("dump", "--hub", HUB)
    process.stdout._transport.close()
    await process.wait()

    assert process.returncode in (0, -signal.SIGPIPE)
    assert b"Traceback" not in await process.stderr.read()


def test_the_console_script_is_on_the_path(cluster: Cluster) -> None:
    folders = cluster.environment()["PATH"].split(os.pathsep)
    assert any((Path(folder) / "kubectl-hub").exists() for folder in folders)
