"""The profiles whose Workers run unconfined, although they ask for confinement."""

import logging
from collections.abc import Mapping

from runtimed.execution.profile import Profile
from runtimed.model.diagnostic import Diagnostic

CODE = "profile.unconfined"

log = logging.getLogger(__name__)


class UnconfinedProfiles:
    """Reports each profile once, with the first reason, until it is forgotten. A new daemon begins anew."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def note(self, profile: str, problem: str) -> None:
        """Note that a Worker runs unconfined.

        Args:
            profile: The selector of its profile.
            problem: Why nothing confines it.
        """
        if profile not in self._problems:
            self._problems[profile] = problem
            log.warning("Workers of a profile run unconfined", extra={"profile": profile, "reason": problem})

    def forget_changed(self, before: Mapping[str, Profile], after: Mapping[str, Profile]) -> None:
        """Forget the profiles that are not the same before and after: their next Workers may be confined."""
        self._problems = {
            name: problem
            for name, problem in self._problems.items()
            if name in before and before[name] == after.get(name)
        }

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return a diagnostic for each profile, the oldest first."""
        return tuple(
            Diagnostic(CODE, "warning", f"Workers of profile {name} run unconfined: {problem}")
            for name, problem in self._problems.items()
        )
