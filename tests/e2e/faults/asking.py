"""The pod that runs asker.py, and the rounds that it has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kube import Json, World

from kind.cluster import default_image

_NAME = "asker"
_OUTPUT = "asked.txt"


@dataclass(frozen=True)
class Round:
    """One round: each child was called once."""

    asked: int
    failed: int
    first_failure: str


class Asked:
    """The rounds that asker.py has written to ``folder``."""

    def __init__(self, folder: Path, world: World) -> None:
        self._output, self._world = folder / _OUTPUT, world

    def rounds(self, least: int = 0) -> list[Round]:
        """Return the rounds so far; raise AssertionError if there are fewer than ``least``."""
        lines = self._output.read_text().split("\n")[:-1] if self._output.exists() else []
        assert len(lines) >= least, f"{len(lines)} of {least} rounds are over"
        words = [line.split(" ", 2) for line in lines]
        return [Round(int(asked), int(failed), first) for asked, failed, first in words]

    def end(self) -> list[Round]:
        """Stop the pod and return all rounds."""
        self._world.kubectl("delete", "pod", _NAME, "--grace-period=0", "--force")
        return self.rounds()


def pod(node: str, children: Sequence[str], hubs: Sequence[str], mounts: list[Json], volumes: list[Json]) -> list[Json]:
    """The manifests of the pod and of its service account, which may read the namespace."""
    token = {"serviceAccountToken": {"path": "token", "audience": "processhub"}}
    container = {
        "name": "main",
        "image": default_image(),
        "command": ["/opt/processhub/bin/python", "/rows/asker.py", f"/rows/{_OUTPUT}", ",".join(children), *hubs],
        "env": [{"name": "HUB_TOKEN_FILE", "value": "/token/token"}],
        "volumeMounts": [*mounts, {"name": "token", "mountPath": "/token"}],
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _NAME}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": _NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": _NAME}],
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": _NAME},
            "spec": {
                "serviceAccountName": _NAME,
                "nodeName": node,
                "restartPolicy": "Never",
                "containers": [container],
                "volumes": [*volumes, {"name": "token", "projected": {"sources": [token]}}],
            },
        },
    ]
