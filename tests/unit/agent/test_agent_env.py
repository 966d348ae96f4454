"""What the agent reads of its environment, and what of it its children get."""

from __future__ import annotations

import pytest
from yarl import URL

from processhub.agent.env import EnvironmentProblem, read_environment

POD = {
    "HUB_NAME": "shop",
    "HUB_NAMESPACE": "prod",
    "HUB_UID": "u-1",
    "HUB_MEMBER": "shop-0",
    "POD_NAME": "shop-0",
    "POD_UID": "p-1",
    "POD_IP": "10.0.0.7",
    "NODE_NAME": "node-1",
}


def test_children_get_the_containers_environment_without_the_agents_own_variables() -> None:
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
    }
    own = {
        "HUB_TOKEN_FILE": "/token",
        "LOG_LEVEL": "debug",
        "TERMINATION_GRACE_SECONDS": "30",
        "PROCESSHUB_PYTHON_PATH": "/python",
        "PROCESSHUB_RUNNER_PYTHON": "python3",
    }

    assert read_environment({**POD, **own, **container}).container == container


@pytest.mark.parametrize(
    ("address", "url"),
    [("10.0.0.7", "http://10.0.0.7:8080"), ("fd00:10:244::5", "http://[fd00:10:244::5]:8080")],
)
def test_the_hubs_url_is_one_for_each_family_of_addresses(address: str, url: str) -> None:
    env = read_environment({**POD, "POD_IP": address})

    assert env.url == url
    assert (URL(env.url).host, URL(env.url).port) == (address, 8080)


def test_a_variable_that_is_missing_is_named() -> None:
    with pytest.raises(EnvironmentProblem, match="POD_IP not set"):
        read_environment({**POD, "POD_IP": ""})
