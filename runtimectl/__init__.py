"""The command line of runtimed, for people and for scripts."""
