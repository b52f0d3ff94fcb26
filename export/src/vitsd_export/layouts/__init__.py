"""Model folders as other servers want them, with their configuration."""

from vitsd_export.layouts.layout import Layout, Served, served_name
from vitsd_export.layouts.table import LAYOUTS

__all__ = ["LAYOUTS", "Layout", "Served", "served_name"]
