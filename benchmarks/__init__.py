"""Benchmarks of the daemon. Each case runs next to its own baseline: `python -m benchmarks --help`."""
