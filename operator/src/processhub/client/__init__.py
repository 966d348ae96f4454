"""The client: reads the registry, writes Children, waits for them."""
