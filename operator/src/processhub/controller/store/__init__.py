"""What the controller knows of all hubs, by informers, parsed once when it changes."""
