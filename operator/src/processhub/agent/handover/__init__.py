"""The state of a child that is moved, from its old member to its new one."""
