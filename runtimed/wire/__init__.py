"""The JSON that daemon and client speak: strict to read, exact to write."""
