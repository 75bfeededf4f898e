"""What the programs of a Worker can reach: mechanisms that confine them, and the service that applies these."""
