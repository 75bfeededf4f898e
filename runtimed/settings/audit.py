"""Settings of the audit log."""

from pathlib import Path
from typing import Any

import attrs

from runtimed.audit import AuditPolicy
from runtimed.audit.destinations import JOURNAL
from runtimed.errors import ConfigurationError
from runtimed.settings.tables import read_table, table_converter

_converter = table_converter()


@attrs.frozen(slots=False)
class AuditSettings:
    """Where the audit log goes: a table of the configuration file."""

    audit: dict[str, Any] = attrs.field(factory=dict)

    def audit_policy(self) -> AuditPolicy:
        """Return what is done with audit lines. Raises ConfigurationError, which names the wrong key."""
        found = read_table("audit", self.audit, AuditPolicy, _converter)
        is_path = Path(found.file).is_absolute() and "\0" not in found.file
        if found.file not in {"", JOURNAL} and not is_path:
            raise ConfigurationError(f'audit.file: expected an absolute path, or "{JOURNAL}", got {found.file!r}')
        if found.required and not found.file:
            raise ConfigurationError(f'audit.file: required = true needs an absolute path, or "{JOURNAL}"')
        return found

    @property
    def audit_files(self) -> tuple[Path, ...]:
        """The file of the audit log, if it is one. Raises ConfigurationError."""
        file = self.audit_policy().file
        return (Path(file),) if file not in {"", JOURNAL} else ()
