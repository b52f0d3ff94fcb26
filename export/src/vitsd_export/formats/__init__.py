"""From the inference graph to files, one converter for each format, and what is done to them."""
