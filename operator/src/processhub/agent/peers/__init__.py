"""Requests and states on their way to other members."""
