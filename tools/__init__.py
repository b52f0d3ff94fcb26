"""Development tools, part of no distribution."""
