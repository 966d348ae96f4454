"""TLS on a real cluster: turned on by an upgrade of the chart, in a hub at work, and used through its Service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kube import CommandError, Kube, Release, World, settles

# Calls a child through the hub's Service, as a program without this product's client does. It prints the answer, or the
# code of the problem.
CALL = """
import json, os, ssl, sys, urllib.error, urllib.request
base, ca = sys.argv[1:]
trusted = ssl.create_default_context(cafile=ca) if ca else None
token = open(os.environ["HUB_TOKEN_FILE"]).read()
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
asked = urllib.request.Request(base + "/v1/children/counter/call", b'{"op": "get"}', headers)
try:
    print(urllib.request.urlopen(asked, context=trusted).read().decode())
except urllib.error.HTTPError as error:
    print(json.loads(error.read())["code"])
"""
WAITS = {"command": ["sleep", "100000"]}


@pytest.fixture(scope="module")
def encrypted(kube: Kube, release: Release) -> Iterator[Release]:
    """The chart with TLS. It is turned off again at the end."""
    yield release
    release.upgrade()
    release.ready()


def tls(world: World) -> dict[str, object]:
    found: dict[str, object] = world.get("hub", "hub").get("status", {}).get("tls", {})
    return found


def required(world: World) -> None:
    assert tls(world).get("required") is True, tls(world)


def uids(world: World) -> dict[str, str]:
    """The members' pods."""
    pods = world.kube.items("pods", "-n", world.namespace, "-l", "app.kubernetes.io/component=agent")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def test_an_upgrade_of_the_chart_encrypts_a_hub_at_work(kube: Kube, world: World, encrypted: Release) -> None:
    world.hub(members={"replicas": 2})
    world.children("counter", python={"target": "processhub.examples:Counter"})
    world.children("caller", exec=WAITS)
    world.children_ready("counter", "caller")
    before = uids(world)
    world.cli("call", "counter", '{"op": "add", "by": 7}')

    encrypted.upgrade("--set", "tls.enabled=true")
    settles(lambda: required(world), within=120)

    assert uids(world) == before, "no member was restarted"
    assert world.cli("call", "counter", '{"op": "get"}').strip() == "7", "through a port-forward, verified"
    service = f"hub.{world.namespace}.svc"
    world.kubectl("wait", "--for=condition=Ready", "hub/hub", "--timeout=60s")
    authorities = str(tls(world)["authorities"])

    def ask(base: str, ca: str) -> str:
        program = f"open('/tmp/ca', 'w').write({authorities!r})\n{CALL}"
        return world.cli("exec", "caller", "--", "python3", "-c", program, base, ca).strip()

    # The cluster's DNS and the rules of its Services follow a moment later.
    assert settles(lambda: ask(f"https://{service}:8080", "/tmp/ca")) == "7"
    assert ask(f"http://{service}:8080", "") == "tls_required"
    assert ask(world.cli("exec", "caller", "--", "printenv", "HUB_URL").strip(), "") == "7", "inside of the pod"
    with pytest.raises(CommandError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(f"https://{service}:8080", "/etc/ssl/certs/ca-certificates.crt")


def test_a_pod_child_finds_the_authorities_beside_its_token(kube: Kube, world: World, encrypted: Release) -> None:
    encrypted.upgrade("--set", "tls.enabled=true")
    world.hub(members={"replicas": 2})
    required(world)
    world.children("counter", python={"target": "processhub.examples:Counter"})
    image = kube.items("pods", "-n", world.namespace)[0]["spec"]["containers"][0]["image"]
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "main", "image": image, "command": WAITS["command"], "securityContext": safe}
    pod = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
    world.children("pod", pod={"template": {"spec": {**pod, "containers": [container]}}})
    world.children_ready("counter", "pod")
    (made,) = kube.items("pods", "-n", world.namespace, "-l", "processhub.dev/child")
    name = made["metadata"]["name"]

    program = f"import os, sys\nsys.argv = ['', os.environ['HUB_URL'], os.environ['HUB_CA_FILE']]\n{CALL}"
    answer = settles(lambda: world.kubectl("exec", name, "--", "python3", "-c", program).strip())

    assert answer == "0"
