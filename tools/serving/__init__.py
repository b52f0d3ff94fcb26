"""A server under load: started as users start it, asked by many clients at once."""
