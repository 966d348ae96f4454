"""Writes that carry out a plan. Each is a step that fails alone."""
