"""HTTP services that Workers reach through the daemon, which adds the credentials."""
