"""A job: a new Worker, one run of it, and its end, as `runtimectl run` has it."""
