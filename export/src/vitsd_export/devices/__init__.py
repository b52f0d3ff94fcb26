"""What stands in for a microcontroller or an NPU on the exporting machine."""
