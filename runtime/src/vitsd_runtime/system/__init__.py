"""Files, cores, signals and the machine."""
