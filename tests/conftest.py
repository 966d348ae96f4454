"""What all tests share: a control plane of the session's own for those that ask for one."""

pytest_plugins = ("controlplane",)
