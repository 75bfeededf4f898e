"""`python -m runtimed` is `runtimed`."""

from runtimed.cli import main

main()
