"""A registry of the test's own, which asks for a password. It runs beside the nodes, and they know it by a name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from images import REGISTRY, build_registry
from kube import Kube, docker, run, settles

NETWORK = "kind"  # the nodes' network in Docker
CONTAINER = "processhub-e2e-registry"
NAME = "registry.test:5000"  # as nodes and Secrets have it
USER, PASSWORD = "member", "open-sesame"
_USERS = f"{USER}:$2b$05$N9qo8uLOickgx2ZMRZoMyedG57A.Iq5tYDOlC7c2lfQQHPPhrpMe6\n"  # bcrypt of the password
_HOSTS = '[host."http://{address}:5000"]\n  capabilities = ["pull", "resolve"]\n'


class Registry:
    """A registry that runs. ``published``: its address on this machine."""

    def __init__(self, folder: Path, published: str) -> None:
        self._folder, self._published = folder, published

    def push(self, image: str) -> str:
        """Push an image of Docker's here; returns its name for nodes."""
        name = image.rpartition("/")[2]
        config = ("docker", "--config", str(self._folder))
        login = (*config, "login", "--username", USER, "--password-stdin", self._published)
        settles(lambda: run(*login, stdin=PASSWORD))
        docker("tag", image, f"{self._published}/{name}")
        try:
            run(*config, "push", "--quiet", f"{self._published}/{name}", timeout=300)
        finally:
            docker("rmi", f"{self._published}/{name}")
        return f"{NAME}/{name}"


@contextlib.contextmanager
def private_registry(kube: Kube, folder: Path) -> Iterator[Registry]:
    """A registry until the block ends, known to the nodes that run members."""
    build_registry(folder / "image", _USERS)
    options = ("--detach", "--rm", "--name", CONTAINER, "--network", NETWORK, "--publish", "127.0.0.1::5000")
    docker("run", *options, REGISTRY)
    try:
        (found,) = json.loads(docker("inspect", CONTAINER))
        address = found["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        hosts = f"/etc/containerd/certs.d/{NAME}"
        for node in kube.workers():
            script = f"mkdir -p {hosts} && printf '%s' '{_HOSTS.format(address=address)}' >{hosts}/hosts.toml"
            docker("exec", node, "sh", "-c", script)
        yield Registry(folder / "docker", docker("port", CONTAINER, "5000/tcp").split()[0])
    finally:
        docker("rm", "--force", CONTAINER)
