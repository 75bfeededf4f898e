"""The configuration file of the daemon, which is rewritten while the daemon runs."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.soak.files import replace

PROFILE = "builtin:soak"
TENANT = "soak"
LEVELS = ("info", "debug")
MIN_TENANT_WORKERS = 10
TENANT_REQUESTS_PER_S = 1_000


class Configuration:
    """A configuration file. Each version has another profile, another limit of a tenant and another log level.

    Args:
        file: Where it is.
        settings: What is the same in all versions.
        audit_log: The file of the audit log.

    Attributes:
        version: The number of the version, from 1. A Worker of PROFILE has it in its environment as VERSION.
    """

    CHANGES = frozenset({"log_level", f"profiles.{PROFILE}", f"tenants.{TENANT}"})
    """What differs between two versions, in the words of the daemon's log."""

    def __init__(self, file: Path, settings: Mapping[str, object], audit_log: Path) -> None:
        self.file, self.version = file, 0
        self._settings, self._audit_log = settings, audit_log
        self.advance()

    def advance(self) -> None:
        """Write the next version."""
        self.version += 1
        self.restore()

    def restore(self) -> None:
        """Write the same version again."""
        settings = {**self._settings, "log_level": LEVELS[self.version % len(LEVELS)]}
        lines = [
            *(f"{name} = {json.dumps(value)}" for name, value in settings.items()),
            "[audit]",
            f"file = {json.dumps(str(self._audit_log))}",
            f"[tenants.{TENANT}]",
            f"max_workers = {MIN_TENANT_WORKERS + self.version}",
            f"max_requests_per_s = {TENANT_REQUESTS_PER_S}",
            f'[profiles."{PROFILE}"]',
            'backend = "shell"',
            'capabilities = ["shell"]',
            f'env = {{ VERSION = "{self.version}" }}',
        ]
        replace(self.file, "\n".join([*lines, ""]))

    def spoil(self) -> None:
        """Write a version that the daemon has to refuse."""
        replace(self.file, "max_workers = -1\n")
