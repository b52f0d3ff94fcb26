"""Command-line tools of the runtime, and what all vitsd commands share."""
