"""A daemon that hosts a Runtime of long-lived, message-driven Workers."""

__version__ = "0.1.0"
