"""Settings of Workers: profiles, and what a restart brings back."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import attrs

from runtimed.core.services.lifecycle import Restore
from runtimed.errors import ConfigurationError
from runtimed.execution.profile import BUILT_IN, ECHO, Profile
from runtimed.settings.confinement import ConfinementSettings
from runtimed.settings.profiles import SANDBOX, check_references, read_profile
from runtimed.settings.sandbox import check_paths

RESTORE_POLICIES = get_args(Restore)


@attrs.frozen(slots=False)
class WorkerSettings(ConfinementSettings):
    """How Workers are run."""

    default_profile: str = ECHO
    profiles: dict[str, Any] = attrs.field(factory=dict)
    restore: Restore = "lazy"
    warm_idle_s: float = 3600.0

    def profile_table(self) -> dict[str, Profile]:
        """Return the configured profiles by selector. Raises ConfigurationError, which names the wrong field."""
        sandbox = self.sandbox_policy()
        return {name: read_profile(name, fields, sandbox) for name, fields in self.profiles.items()}

    def check_workers(self, private: Iterable[Path]) -> None:
        """Raise ConfigurationError if a profile is wrong, or the default one does not exist.

        Args:
            private: The paths that no Worker may be given.
        """
        profiles, resources = self.profile_table(), self.host_resources()
        for name, profile in profiles.items():
            check_paths(f'profiles."{name}".{SANDBOX}', profile.sandbox, private)
            check_references(name, profile, resources)
        if self.default_profile not in {*BUILT_IN, *profiles}:
            raise ConfigurationError(f"default_profile: there is no profile {self.default_profile!r}")
