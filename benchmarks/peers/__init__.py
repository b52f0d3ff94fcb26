"""``make bench-peers``: our exports beside what people would use instead, and beside the limit."""
