"""The JSON that daemon and client exchange, the routes, and the files by which a client finds a daemon."""
