"""The environment of a member's pod: the variables that the agent reads, and those that children get."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from processhub.agent.env import Environment, EnvironmentProblem, read_environment

POD = {
    "HUB_NAME": "hub",
    "HUB_NAMESPACE": "ns",
    "HUB_UID": "hub-uid",
    "HUB_MEMBER": "hub-0",
    "POD_NAME": "hub-0",
    "POD_UID": "pod-uid",
    "POD_IP": "10.0.0.1",
    "NODE_NAME": "node-1",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket's, which those of ``tmp_path`` may not be."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def read(folder: Path, **more: str) -> Environment:
    return read_environment({**POD, "PROCESSHUB_RUN_DIR": str(folder), **more})


def test_the_operators_variables_are_read_and_others_have_defaults(folder: Path) -> None:
    env = read(folder)

    assert (env.hub, env.namespace, env.hub_uid, env.member) == ("hub", "ns", "hub-uid", "hub-0")
    assert (env.pod, env.pod_uid, env.pod_ip, env.node) == ("hub-0", "pod-uid", "10.0.0.1", "node-1")
    assert (env.log_level, env.token_file) == ("INFO", "/var/run/secrets/processhub/token")
    assert env.grace_seconds == math.inf
    assert env.url == "http://10.0.0.1:8080"


def test_a_users_variables_override_the_defaults(folder: Path) -> None:
    env = read(folder, PROCESSHUB_LOG_LEVEL="debug", HUB_TOKEN_FILE="/token", TERMINATION_GRACE_SECONDS="30")

    assert (env.log_level, env.token_file, env.grace_seconds) == ("DEBUG", "/token", 30.0)


def test_children_get_the_containers_environment_without_the_agents_own_variables(folder: Path) -> None:
    container = {
        "PATH": "/opt/bin:/bin",
        "HOME": "/home/app",
        "JAVA_HOME": "/opt/java",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBECONFIG": "/etc/kubeconfig",
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/shop",
        "HTTPS_PROXY": "http://proxy:3128",
        "DB_PASSWORD": "s3cret",
        "LOG_LEVEL": "trace",
    }
    own = {
        "HUB_TOKEN_FILE": "/token",
        "PROCESSHUB_LOG_LEVEL": "debug",
        "TERMINATION_GRACE_SECONDS": "30",
        "PROCESSHUB_PYTHON_PATH": "/python",
        "PROCESSHUB_RUNNER_PYTHON": "python3",
    }

    assert read(folder, **own, **container).container == container


def test_a_level_of_a_childs_log_is_none_of_the_agents(folder: Path) -> None:
    assert read(folder, LOG_LEVEL="trace").log_level == "INFO"
    with pytest.raises(EnvironmentProblem, match="PROCESSHUB_LOG_LEVEL='trace' must be debug, info, warning or error"):
        read(folder, PROCESSHUB_LOG_LEVEL="trace")


def test_variables_of_the_agent_that_the_template_names_too_are_passed_on(folder: Path) -> None:
    found = read(folder, PROCESSHUB_PASSED_ON="POD_IP,NODE_NAME", MINE="x").container

    assert found == {"POD_IP": "10.0.0.1", "NODE_NAME": "node-1", "MINE": "x"}


@pytest.mark.parametrize(
    ("address", "url"),
    [("10.0.0.7", "http://10.0.0.7:8080"), ("fd00:10:244::5", "http://[fd00:10:244::5]:8080")],
)
def test_the_hubs_url_depends_on_the_address_family(address: str, url: str, folder: Path) -> None:
    env = read(folder, POD_IP=address)

    assert env.url == url
    assert (URL(env.url).host, URL(env.url).port) == (address, 8080)


@pytest.mark.parametrize("name", POD)
def test_a_missing_or_empty_variable_is_named(name: str, folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=f"^{name} not set: the agent runs in member pods"):
        read(folder, **{name: ""})


def test_a_grace_period_that_is_no_number_is_rejected(folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="TERMINATION_GRACE_SECONDS must be a number of seconds"):
        read(folder, TERMINATION_GRACE_SECONDS="soon")


def test_pods_that_share_a_folder_have_private_folders_in_it(folder: Path) -> None:
    one, other = read(folder), read(folder, POD_UID="other-uid")

    assert one.run_dir != other.run_dir
    assert {one.run_dir.parent, other.run_dir.parent} == {folder}
    assert one.run_dir.stat().st_mode & 0o777 == 0o700
    assert read(folder).run_dir == one.run_dir, "an agent that starts again finds its files"


def test_a_folder_with_too_long_a_path_for_sockets_is_not_used(folder: Path) -> None:
    long = folder / ("x" * 90)

    env = read(long)

    assert not env.run_dir.is_relative_to(long)
    assert len(str(env.child_dir("a"))) < 99
    env.run_dir.rmdir()
