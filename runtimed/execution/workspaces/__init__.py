"""The workspaces of Workers: which folders references mean, how they are prepared, and what was changed in them."""
