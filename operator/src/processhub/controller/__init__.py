"""The controller: one leader that reconciles hubs, hosted by kopf."""
