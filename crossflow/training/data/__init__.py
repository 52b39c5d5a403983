"""Training pairs: drawn from scenes, or read from folders and shards."""
