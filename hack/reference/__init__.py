"""Generates docs/reference from CRDs, command line, docstrings, enums, routes and metrics."""
