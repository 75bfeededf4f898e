"""The ways out of a confined Worker: a proxy and gateways that the daemon serves on ports of its own."""
