"""The services of a Runtime: inputs, the life of Workers, retention, queries."""
