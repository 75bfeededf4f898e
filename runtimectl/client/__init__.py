"""Talk to a daemon: find it, send requests, follow its feed."""
