"""Command-line tools. What they share is in :mod:`vitsd_runtime.cli.common`."""
