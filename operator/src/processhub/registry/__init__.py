"""The model of the registry: the texts of slice entries, and the state of each copy of a child. It does no I/O."""
