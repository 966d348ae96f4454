"""The watchdog: one small process that starts, watches and ends all others of a member. Standard library only."""
