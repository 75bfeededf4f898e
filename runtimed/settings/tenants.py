"""Settings of tenants: the limits of each."""

from collections.abc import Mapping
from typing import Any

import attrs

from runtimed.core.limits import TenantLimits
from runtimed.core.state.token_rules import NAME, NAME_RULE
from runtimed.errors import ConfigurationError, printable
from runtimed.settings.tables import read_table, table_converter

MAX_TENANTS = 10_000
"""The most tenants with limits. Each may take a few hundred bytes for its rates."""

MIN_RATE = 0.001
"""The lowest rate, in requests per second: about four an hour."""

_converter = table_converter()


@attrs.frozen(slots=False)
class TenantSettings:
    """The limits of tenants. A tenant without a table has none of its own."""

    tenants: dict[str, Any] = attrs.field(factory=dict)

    def tenant_limits(self) -> Mapping[str, TenantLimits]:
        """Return the limits by tenant. Raises ConfigurationError, which names the wrong key."""
        return {name: _read(name, fields) for name, fields in self.tenants.items()}

    def check_tenants(self) -> None:
        """Raise ConfigurationError if a table is wrong, or there are too many."""
        if len(self.tenants) > MAX_TENANTS:
            raise ConfigurationError(f"tenants: expected at most {MAX_TENANTS} tables")
        self.tenant_limits()


def _read(name: str, fields: Any) -> TenantLimits:
    place = f"tenants.{printable(name)}"
    if not NAME.fullmatch(name):
        raise ConfigurationError(f"{place}: expected a name of {NAME_RULE}")
    found = read_table(place, fields, TenantLimits, _converter)
    for key, value in attrs.asdict(found).items():
        least = MIN_RATE if key.endswith("_per_s") else 1
        if value is not None and value < least:
            raise ConfigurationError(f"{place}.{key}: expected a number, at least {least:g}")
    return found
