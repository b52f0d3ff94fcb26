"""``make arm64``: the runtime on an emulated 64-bit Arm Linux."""
