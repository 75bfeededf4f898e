"""What a Runtime offers: inputs, the life of Workers, retention, queries."""
