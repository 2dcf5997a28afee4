"""Settings: what is read, refused and said, without a server."""
