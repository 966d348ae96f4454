"""Typed resources, reasons and the wire format of slices; nothing else in the project knows the wire format."""
