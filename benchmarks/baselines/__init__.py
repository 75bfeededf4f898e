"""What the daemon is measured against: small honest programs, each in a process of its own."""
