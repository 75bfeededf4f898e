"""What every session-based backend shares: the sessions of Workers, their runs, and how runs end."""
