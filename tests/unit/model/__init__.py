"""A small-state model of the protocol: the real planner and membership, modelled API server, operator and agents."""
