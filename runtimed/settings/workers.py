"""Settings of Workers: profiles, and what a restart brings back."""

from typing import Any, get_args

import attrs

from runtimed.core.services.lifecycle import Restore
from runtimed.errors import ConfigurationError
from runtimed.execution.profile import BUILT_IN, ECHO, Profile
from runtimed.settings.profiles import read_profile

RESTORE_POLICIES = get_args(Restore)


@attrs.frozen(slots=False)
class WorkerSettings:
    """How Workers are run."""

    default_profile: str = ECHO
    profiles: dict[str, Any] = attrs.field(factory=dict)
    restore: Restore = "lazy"
    warm_idle_s: float = 3600.0

    def profile_table(self) -> dict[str, Profile]:
        """Return the configured profiles by selector. Raises ConfigurationError, which names the wrong field."""
        return {name: read_profile(name, fields) for name, fields in self.profiles.items()}

    def check_workers(self) -> None:
        """Raise ConfigurationError if a profile is wrong, or the default one does not exist."""
        if self.default_profile not in {*BUILT_IN, *self.profile_table()}:
            raise ConfigurationError(f"default_profile: there is no profile {self.default_profile!r}")
