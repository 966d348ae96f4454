"""The TLS of a member: its key, its certificate, and which connections are encrypted."""
