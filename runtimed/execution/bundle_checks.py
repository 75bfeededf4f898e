"""Check what this host would do with the Workers of a config bundle."""

import json
from collections.abc import Mapping, Sequence

from runtimed.execution.factories import BackendFactory
from runtimed.execution.processes.confinement import UNCONFINED, Confiner
from runtimed.execution.profile import Profile
from runtimed.execution.summaries import find_problem
from runtimed.model.bundle import Declaration, DeclarationCheck, ProfileCheck

NO_PROGRAMS = "the profile runs no programs: there is nothing to enforce"
CAPABILITY_GRANT = "capability_grant"


def unconfigured(name: str) -> str:
    """Return the message about a profile that is not configured."""
    return f"no profile {name!r} is configured: add [profiles.{json.dumps(name)}] to the configuration"


def check_profile(
    name: str,
    profile: Profile | None,
    factories: Mapping[str, BackendFactory],
    confiner: Confiner,
    declarations: Sequence[Declaration],
) -> ProfileCheck:
    """Return what this host would do with the Workers of a profile. Blocks: it looks for the program.

    Args:
        name: The selector of the profile.
        profile: The profile; None if it is not configured.
        factories: The installed backends by name.
        confiner: Knows what can be enforced.
        declarations: Those of the bundle.
    """
    if profile is None:
        return ProfileCheck(name, UNCONFINED, (), unconfigured(name))
    problem = find_problem(profile, factories) or _missing(profile, declarations)
    factory = factories.get(profile.backend)
    if factory is not None and not factory.runs_programs:
        return ProfileCheck(name, UNCONFINED, tuple(map(_idle, declarations)), problem)
    checks = tuple(confiner.check(declarations, profile.sandbox))
    return ProfileCheck(name, confiner.sandbox(profile.sandbox), checks, problem)


def _idle(declaration: Declaration) -> DeclarationCheck:
    return DeclarationCheck(declaration.kind, declaration.name, declaration.reference, "enforced", NO_PROGRAMS)


def _missing(profile: Profile, declarations: Sequence[Declaration]) -> str | None:
    """Return which capabilities the profile needs and the bundle does not grant, or None."""
    grants = [one for one in declarations if one.kind == CAPABILITY_GRANT]
    granted = {one.reference.partition(":")[2] for one in grants}
    missing = [name for name in profile.capabilities if name not in granted]
    return f"it needs {', '.join(missing)}, which the bundle does not grant" if grants and missing else None
