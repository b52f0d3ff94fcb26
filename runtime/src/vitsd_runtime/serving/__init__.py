"""A service over HTTP, and its page."""
