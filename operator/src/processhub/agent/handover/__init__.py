"""The handover of a child's state from its old member to its new one."""
