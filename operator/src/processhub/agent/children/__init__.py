"""The children that run on this member, and what starts and ends them."""
