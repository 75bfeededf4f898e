"""Summaries of profiles for clients, and whether their Workers can be started."""

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from runtimed.execution.factories import BackendFactory
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.executable import located
from runtimed.execution.profile import Profile
from runtimed.model.profile import ProfileSummary, Sandbox


def summarize(
    name: str, profile: Profile, factories: Mapping[str, BackendFactory], sandbox: Sandbox, *, is_default: bool
) -> ProfileSummary:
    """Return what clients see of a profile. Blocks: it looks for the program.

    Args:
        name: The selector of the profile.
        profile: The profile.
        factories: The installed backends by name.
        sandbox: How its Workers are confined.
        is_default: Whether it is the default profile.
    """
    problem = find_problem(profile, factories)
    return ProfileSummary(
        selector=name,
        backend=profile.backend,
        capabilities=profile.capabilities,
        sandbox=sandbox,
        available=problem is None,
        description=profile.description or None,
        problem=problem,
        default=is_default,
        mcp_from_clients=profile.mcp_from_clients,
    )


def find_problem(profile: Profile, factories: Mapping[str, BackendFactory]) -> str | None:
    """Return why no Worker of a profile can be started, or None. Blocks: it looks for the program."""
    factory = factories.get(profile.backend)
    if factory is None:
        return f"no backend {profile.backend!r} is installed"
    if factory.library and find_spec(factory.library) is None:
        return f"the library of the backend {profile.backend} is missing: install runtimed[{profile.backend}]"
    if factory.programs and not any(map(shutil.which, factory.programs)):
        return f"none of {', '.join(factory.programs)} is in PATH"
    return _find_program_problem(profile.command, profile) if factory.needs_command else None


def _find_program_problem(command: tuple[str, ...], profile: Profile) -> str | None:
    """Return why the program cannot be found. A relative path starts in a folder that each Worker has for itself."""
    program = command[0] if command else ""
    if "/" in program and not program.startswith(("/", "~/")):
        return None
    try:
        located(command, environment(profile.env, profile.env_pass), Path("/"))
    except OSError as error:
        return str(error)
    return None
