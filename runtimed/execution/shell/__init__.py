"""`builtin:shell`: one long-lived shell for each Worker."""

from runtimed.execution.shell.driver import ShellBackend

__all__ = ["ShellBackend"]
