"""`runtimectl attach`: talk to a Worker in a terminal."""
