"""Waiting for the operator's installation ends when it is ready, or with the reason why it can't become ready."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from clusterfolder import cluster_folder

from localcluster import cluster as local
from localcluster import install
from localcluster.cluster import Cluster
from localcluster.kubelet.connection import read_kubeconfig
from localcluster.layout import ClusterError, Layout
from processhub.cluster.client import Client
from processhub.controller.lead.prerequisites import Prerequisites


@pytest.fixture(scope="module")
def empty() -> Iterator[Cluster]:
    """A cluster without the operator."""
    with cluster_folder() as folder:
        yield local.up(Layout(folder), nodes=1)


def with_environment(**values: str) -> tuple[str, str]:
    """Return helm's options for further environment variables of the operator."""
    return "--set-json", f"extraEnv={json.dumps([{'name': name, 'value': value} for name, value in values.items()])}"


async def test_an_operator_without_crds_is_not_ready(empty: Cluster) -> None:
    async with Client(read_kubeconfig(empty.kubeconfig).client_config()) as client:
        missing = await Prerequisites(client, ()).check()

    assert missing == (
        "not installed in this cluster: CRD hubs.processhub.dev, children.processhub.dev, childsets.processhub.dev,"
        " registryslices.processhub.dev; install the chart with crds.enabled=true"
    )


def test_the_kubelets_reason_why_an_operator_cannot_start_is_reported(empty: Cluster) -> None:
    with pytest.raises(
        ClusterError, match=r"operator.* can't start: .*\"processhub-operator\": executable file not found"
    ):
        install.install(empty, *with_environment(PATH="/nothing"))


def test_a_crash_looping_operator_is_reported_with_its_last_output(empty: Cluster) -> None:
    with pytest.raises(
        ClusterError, match=r"(?s)can't start: .*exit code 1; it said last:.*No module named 'encodings'"
    ):
        install.install(empty, *with_environment(PYTHONHOME="/nothing"))


def test_the_api_servers_reason_why_operator_pods_are_rejected_is_reported(empty: Cluster) -> None:
    with pytest.raises(ClusterError, match=r'can.t start: FailedCreate: .*serviceaccount "nobody" not found'):
        install.install(empty, "--set", "serviceAccount.create=false,serviceAccount.name=nobody")


@pytest.mark.nightly
def test_a_reason_that_no_longer_applies_does_not_end_the_wait(empty: Cluster) -> None:
    install.install(empty)

    assert "processhub" in install.helm(empty, "list", "--namespace", "processhub-system", "--output", "json")


@pytest.mark.nightly
def test_the_manifest_and_the_chart_replace_each_other(empty: Cluster) -> None:
    install.install(empty)  # applying the manifest keeps the values that an earlier test has set with helm
    install.apply_manifest(empty.kubectl)
    install.install(empty)

    status = install.helm(empty, "status", install.RELEASE, "--namespace", "processhub-system", "--output", "json")
    assert json.loads(status)["info"]["status"] == "deployed"
