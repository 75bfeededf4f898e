"""The Runtime as an agent of the Agent Client Protocol: each session is a Worker.

The messages are few, so this package speaks them itself: importing a library for the protocol would take longer than
an editor waits. Only `stdio` knows how messages travel.
"""
