"""Process trees: starting, containing, limiting and ending them, and the pipes to them."""
