"""Images as they come: from cameras, and in folders that are watched."""
