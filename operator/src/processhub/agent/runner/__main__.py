"""The entry point of ``python -m processhub.agent.runner``."""

import sys

if sys.version_info < (3, 9):  # noqa: UP036 an image's own Python may be older than the agent's
    sys.exit("children's Python is %d.%d; processhub needs 3.9 or later" % sys.version_info[:2])  # noqa: UP031

from processhub.agent.runner.main import main

main()
