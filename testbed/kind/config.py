"""kind's configuration of the cluster: one control plane, three workers in two regions and three zones."""

from __future__ import annotations

from typing import Any

import yaml

from kind.layout import CLUSTER, SHARED, SHARED_IN_NODE

WORKERS = 3
# As the local cluster labels its nodes (localcluster/kubelet/node.py), so that tests and examples run on both.
_REGIONS = ("r1", "r2")
_ZONES = ("a", "b", "c")
# Kubelets after 1.34 refuse cgroup v1 without this setting; earlier ones ignore it.
_KUBELET = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "failCgroupV1": False}
# Where a node finds the registries that a test brings (hosts.toml). Later node images of kind have it by themselves.
_CONTAINERD = """
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
"""
_SHARED = {"hostPath": str(SHARED), "containerPath": SHARED_IN_NODE}


def labels(index: int) -> dict[str, str]:
    """The topology labels of worker ``index``, counted from 0."""
    region = _REGIONS[index % len(_REGIONS)]
    zone = _ZONES[index % len(_ZONES)]
    return {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": f"{region}-{zone}"}


def cluster() -> dict[str, Any]:
    """The configuration (v1alpha4) as a document. Failure detection keeps Kubernetes' defaults."""
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": CLUSTER,
        # IPv4 only: tests partition nodes by address, and traffic would continue over IPv6.
        "networking": {"ipFamily": "ipv4", "apiServerAddress": "127.0.0.1"},
        "nodes": [
            {"role": "control-plane"},
            *({"role": "worker", "labels": labels(index), "extraMounts": [dict(_SHARED)]} for index in range(WORKERS)),
        ],
        "containerdConfigPatches": [_CONTAINERD],
        "kubeadmConfigPatches": [yaml.safe_dump(_KUBELET)],
    }


def render() -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(cluster(), sort_keys=False)
