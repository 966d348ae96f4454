"""The surroundings of a pod before its containers run: address, way to the API server, volumes, kubeconfig."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml

from localcluster.kubelet import environment, image, runtime
from localcluster.kubelet.addresses import IP_FAMILY, Block
from localcluster.kubelet.connection import Server
from localcluster.kubelet.environment import ContainerConfigError, Json, Place
from localcluster.kubelet.forwarder import Forwarder
from localcluster.kubelet.rootfs import Mount
from localcluster.kubelet.volumes import Volumes, is_read_only
from localcluster.processes import MARKER
from processhub.cluster.client import Client
from processhub.cluster.kinds import untyped


@dataclass(frozen=True)
class Host:
    """The parts that all pods of this kubelet share."""

    client: Client
    server: Server
    block: Block
    root: Path
    code: Path
    path: str  # PATH of every container
    kept: tuple[str, ...]  # the folders that no volume may hide from a container
    isolate: bool


@dataclass
class Sandbox:
    """The surroundings of one pod. ``close`` releases all of them."""

    host: Host
    place: Place
    folder: Path
    forwarder: Forwarder
    volumes: Volumes
    paths: dict[str, Path] = field(default_factory=dict)

    async def refresh(self, pod: Json) -> None:
        """Make the volumes, or bring them up to date. Raises VolumeError."""
        self.paths = await self.volumes.make(pod)
        self._write_kubeconfig(pod)

    async def close(self) -> None:
        """Free the address, the port and the files (logs go too, as with a real kubelet)."""
        await self.forwarder.stop()
        self.host.block.free(self.place.pod_ip)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_file(self, container: str, restarts: int) -> Path:
        """The log file of the run with this restart count."""
        return self.folder / "logs" / container / f"{restarts}.log"

    async def container_spec(self, pod: Json, container: Json, restarts: int) -> runtime.Spec:
        """The container's spec for the shim. Raises ContainerConfigError."""
        values = await environment.resolve(pod, container, self.place, self._base(pod), self.volumes.lookup)
        argv = environment.command_line(container, values)
        folder = self.folder / "containers" / container["name"]
        scratch = folder / "root"
        scratch.mkdir(parents=True, exist_ok=True)
        log = self.log_file(container["name"], restarts)
        log.parent.mkdir(parents=True, exist_ok=True)
        read_only = bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem"))
        fixed = {volume["name"] for volume in pod["spec"].get("volumes") or () if is_read_only(volume)}
        mounts = [self._mount(entry, values, fixed) for entry in container.get("volumeMounts") or ()]
        kept = image.outermost((*self.host.kept, str(self.folder)))
        mounts += image.hidden(kept, mounts, read_only=read_only)
        if not self.host.isolate:
            values = {name: _relocate(value, mounts) for name, value in values.items()}
            argv = [_relocate(word, mounts) for word in argv]
        return runtime.Spec(
            code=str(self.host.code),
            argv=argv,
            env=values,
            cwd=container.get("workingDir") or "/",
            log=str(log),
            hostname=pod["spec"].get("hostname") or pod["metadata"]["name"],
            isolate=self.host.isolate,
            scratch=str(scratch),
            read_only=read_only,
            mounts=mounts,
        )

    def _base(self, pod: Json) -> dict[str, str]:
        values = {
            "PATH": self.host.path,
            "HOME": str(self.folder / "home"),
            "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
            "LANG": "C.UTF-8",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.forwarder.port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self.forwarder.port),
        }
        if (self.folder / "kubeconfig").exists():
            values["KUBECONFIG"] = str(self.folder / "kubeconfig")
        if identity := os.environ.get(MARKER):
            values[MARKER] = identity  # so that the cluster's `down` finds whatever might outlive this kubelet
        return values

    def _mount(self, entry: Json, values: dict[str, str], fixed: set[str]) -> Mount:
        if entry["name"] not in self.paths:
            raise ContainerConfigError(f"volumeMount {entry['name']} has no volume")
        source = self.paths[entry["name"]]
        inner = entry.get("subPath") or environment.expand(entry.get("subPathExpr") or "", values)
        if inner:
            if ".." in Path(inner).parts or inner.startswith("/"):
                raise ContainerConfigError(f"subPath {inner} must stay inside the volume")
            source = source / inner
            if not source.exists():
                source.mkdir(parents=True)
            source = source.resolve()
        return str(source), entry["mountPath"], bool(entry.get("readOnly")) or entry["name"] in fixed

    def _write_kubeconfig(self, pod: Json) -> None:
        """Write the kubeconfig for programs that read KUBECONFIG; in-cluster configuration works as well."""
        token = self._token_file(pod)
        if token is None:
            return
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "local",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.forwarder.port}",
                        "certificate-authority": str(self.host.server.ca),
                    },
                }
            ],
            "users": [{"name": "pod", "user": {"tokenFile": str(token)}}],
            "contexts": [
                {
                    "name": "pod",
                    "context": {"cluster": "local", "user": "pod", "namespace": pod["metadata"]["namespace"]},
                }
            ],
            "current-context": "pod",
        }
        path = self.folder / "kubeconfig"
        text = yaml.safe_dump(document)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)

    def _token_file(self, pod: Json) -> Path | None:
        for volume in pod["spec"].get("volumes") or ():
            for source in (volume.get("projected") or {}).get("sources") or ():
                token = source.get("serviceAccountToken")
                if token and not token.get("audience"):
                    return self.folder / "volumes" / str(volume["name"]) / str(token["path"])
        return None


async def open_sandbox(host: Host, pod: Json, node: str, host_ip: str) -> Sandbox:
    """The surroundings of a pod, volumes not made yet."""
    metadata = pod["metadata"]
    folder = host.root / "pods" / metadata["uid"]
    (folder / "home").mkdir(parents=True, exist_ok=True)
    forwarder = Forwarder(host.server.host, host.server.port)
    await forwarder.start()
    ipv6 = (metadata.get("annotations") or {}).get(IP_FAMILY) == "IPv6"
    place = Place(node, host_ip, host.block.take(ipv6=ipv6))

    async def lookup(plural: str, name: str) -> Json:
        return await host.client.get(untyped("v1", plural), metadata["namespace"], name)

    async def request_token(audience: str | None, seconds: int) -> str:
        account = pod["spec"].get("serviceAccountName") or "default"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else None,
                "expirationSeconds": max(600, seconds),
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        answer = msgspec.json.decode(await host.client.raw("POST", path, body=body), type=Json)
        return str(answer["status"]["token"])

    return Sandbox(host, place, folder, forwarder, Volumes(folder / "volumes", place, lookup, request_token))


def _relocate(text: str, mounts: list[Mount]) -> str:
    """Replace paths at or below a mountPath by the volume's real path, if there are no mount trees.

    A path that is mounted in its own place stays, even below another mountPath: the longest mountPath decides.
    """
    real = {target.rstrip("/"): source for source, target, _ in mounts}
    if not real:
        return text
    paths = "|".join(re.escape(path) for path in sorted(real, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w.-])", lambda match: real[match[0]], text)
