"""The client library: it reads the registry, writes Children and sends requests."""
