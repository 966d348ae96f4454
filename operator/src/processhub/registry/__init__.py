"""The model of the registry: the texts of slice entries, and what they say of each copy of a child. It does no I/O."""
