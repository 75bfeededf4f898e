"""What the daemon costs, each case next to its own baseline in the same run: `python -m benchmarks --help`."""
