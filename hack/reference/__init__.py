"""docs/reference, made from what it describes: CRDs, command line, docstrings, enums, routes, metrics."""
