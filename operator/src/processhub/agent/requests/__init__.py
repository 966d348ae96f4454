"""Requests to children: received over HTTP, routed to the owner, queued and answered."""
