"""The objects of all hubs, from informers, each parsed once when it changes."""
