"""``python -m processhub.agent.runner``."""

from processhub.agent.runner.main import main

main()
