"""Print data for people and for programs."""
