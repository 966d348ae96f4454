"""The children that run on this member, and the launchers that start and end them."""
