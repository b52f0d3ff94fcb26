"""What is promised about speed, size and accuracy, measured; part of no distribution."""
