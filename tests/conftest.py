"""What all tests share: a control plane of the session's own for those that ask for one, and fixed examples."""

import os

from hypothesis import settings

pytest_plugins = ("controlplane",)

# A change is judged by the same examples in each run; `make search` looks for others by chance.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
