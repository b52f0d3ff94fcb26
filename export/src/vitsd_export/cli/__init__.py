"""Command-line tools of the exporters."""
