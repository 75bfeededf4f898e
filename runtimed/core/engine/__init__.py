"""The four steps of a change, and the Workers in memory."""
