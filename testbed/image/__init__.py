"""Builds the operator's image: ``python -m image.build``."""
