"""The typed resources, the reasons and the names of the API. No other package knows the wire format."""
