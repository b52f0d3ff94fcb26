"""Folders that are copied to a device."""

from vitsd_export.deploy.bundle import check_folder, deploy
from vitsd_export.deploy.wheels import DevicePlatform

__all__ = ["DevicePlatform", "check_folder", "deploy"]
