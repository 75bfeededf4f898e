"""All settings of the daemon, composed of groups."""

from pathlib import Path

import attrs

from runtimed.errors import ConfigurationError
from runtimed.settings.audit import AuditSettings
from runtimed.settings.identity import IdentitySettings
from runtimed.settings.limits import LimitSettings
from runtimed.settings.log import LogSettings
from runtimed.settings.server import ServerSettings
from runtimed.settings.store import StoreSettings
from runtimed.settings.tenants import TenantSettings
from runtimed.settings.tls import MIN_TLS_BYTES, TlsSettings
from runtimed.settings.workers import WorkerSettings
from runtimed.settings.workspaces import WorkspaceSettings

MAY_BE_ZERO = frozenset({"drain_s"})
"""The numbers for which 0 means something."""


@attrs.frozen
class Settings(
    ServerSettings,
    TlsSettings,
    LimitSettings,
    WorkerSettings,
    WorkspaceSettings,
    TenantSettings,
    LogSettings,
    AuditSettings,
    IdentitySettings,
    StoreSettings,
):
    """All settings of the daemon, with their defaults. Times are in seconds, sizes in bytes."""

    @property
    def private_paths(self) -> tuple[Path, ...]:
        """The paths that no Worker may be given: the store, the token, the key of TLS, secrets and the audit log."""
        store = () if self.store_path is None else (self.store_path,)
        return (*store, *self.private_files)

    @property
    def private_files(self) -> tuple[Path, ...]:
        """The private paths but for the store."""
        files = tuple(Path(file).absolute() for file in (self.token_file, self.tls_key) if file)
        return (*files, *self.secret_files, *self.audit_files)

    def check(self) -> None:
        """Check each group, and that all numbers are above 0, unless 0 means something. Raises ConfigurationError."""
        self.check_identity()
        self.check_store()
        self.check_server()
        self.check_tls()
        if self.tls_cert and self.max_unauthenticated_bytes < MIN_TLS_BYTES:
            raise ConfigurationError(f"max_unauthenticated_bytes: expected at least {MIN_TLS_BYTES} with tls_cert")
        for name in (field.name for field in attrs.fields(Settings) if field.type in {int, float}):
            value = getattr(self, name)
            if value < 0 or (value == 0 and name not in MAY_BE_ZERO):
                least = "at least 0" if name in MAY_BE_ZERO else "above 0"
                raise ConfigurationError(f"{name}: expected a number {least}")
        self.check_limits()
        self.check_confinement(self.private_paths)
        self.check_workers(self.private_paths)
        self.check_workspaces()
        self.check_tenants()
        self.audit_policy()

    def check_metrics_closed(self) -> None:
        """Check that no other machine can reach the address of the metrics, unless `insecure_listen` allows it.

        Blocks while a name is resolved.

        Raises:
            ConfigurationError: Other machines can.
        """
        address = self.metrics_address()
        if address is not None and not self.insecure_listen:
            address.check_closed("listen_metrics")
