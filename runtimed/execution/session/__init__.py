"""The life of a Worker's program and of its runs, shared by all backends with a program for each Worker."""
