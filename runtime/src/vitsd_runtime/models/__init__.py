"""The models that come with the runtime."""
