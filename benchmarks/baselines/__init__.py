"""The baselines: small programs that the daemon is compared with, each in a process of its own."""
