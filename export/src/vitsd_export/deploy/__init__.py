"""Folders that are copied to a device."""
