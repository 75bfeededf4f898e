"""The soak: a daemon that is used for minutes or hours and must not grow."""
