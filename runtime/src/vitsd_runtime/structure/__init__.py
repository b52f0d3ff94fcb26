"""The structure of a model file from a stranger, proven before an engine sees it."""
