"""The client for other members: requests and states that are sent to them."""
