"""Read the profiles in the configuration file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from runtimed.core.state.mcp_server_rules import check_servers
from runtimed.errors import ConfigurationError, InvalidRequest
from runtimed.execution.confinement.references import references_in
from runtimed.execution.factories import installed_backends
from runtimed.execution.policy import HostResources, SandboxPolicy
from runtimed.execution.profile import Profile
from runtimed.settings.sandbox import policy_converter, read_sandbox
from runtimed.settings.values import TOKEN_VARIABLE
from runtimed.wire.problems import first_problem

LEAST = {"max_memory_bytes": 1 << 20, "max_processes": 3, "max_folder_bytes": 1 << 20}
"""The lowest accepted limits of a profile. `sh` did not start with half of that memory, and two of the processes keep
the others together. An agent saves more than a few kilobytes in its home before it does anything."""

MAX_WARM = 64
"""The most agents that a profile keeps ready."""

BUILTIN = "builtin:"


SANDBOX = "sandbox"
"""The key of a profile that holds its table over `[sandbox]`."""


def read_profile(name: str, fields: Any, sandbox: SandboxPolicy) -> Profile:
    """Return the profile of the table `[profiles."name"]`.

    Args:
        name: The selector of the profile.
        fields: The table as TOML has it.
        sandbox: The policy of `[sandbox]`, over which the profile may have keys of its own.

    Raises:
        ConfigurationError: A field is wrong; the message names its path.
    """
    place = f'profiles."{name}"'
    if not name.removeprefix(BUILTIN).strip():
        raise ConfigurationError(f"{place}: expected {BUILTIN}NAME or NAME")
    if type(fields) is not dict:
        raise ConfigurationError(f"{place}: expected a table, with a backend in it")
    backends = installed_backends()
    backend = fields.get("backend")
    if type(backend) is str and backend not in backends:
        raise ConfigurationError(f"{place}.backend: expected one of {', '.join(backends)}")
    kind = backends[backend].settings if type(backend) is str else Profile
    policy = read_sandbox(f"{place}.{SANDBOX}", fields.get(SANDBOX, {}), sandbox)
    try:
        found = _profiles.structure({key: value for key, value in fields.items() if key != SANDBOX}, kind)
    except Exception as error:
        problem = first_problem(error).within(place)
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error
    _check_profile(place, found)
    return attrs.evolve(found, sandbox=policy)


def _check_profile(place: str, profile: Profile) -> None:
    if installed_backends()[profile.backend].needs_command and not (profile.command and profile.command[0]):
        raise ConfigurationError(f"{place}.command: expected an argv, the program first")
    _check_executable(place, profile)
    for reference, path in profile.workspaces.items():
        if not Path(path).is_absolute() or "\0" in path:
            raise ConfigurationError(f'{place}.workspaces."{reference}": expected an absolute path')
    if not all(name.strip() for name in profile.session_config):
        raise ConfigurationError(f"{place}.session_config: expected names that are not blank")
    _check_mcp_servers(place, profile)
    if profile.warm > MAX_WARM or (profile.warm and not installed_backends()[profile.backend].can_warm):
        raise ConfigurationError(f"{place}.warm: expected 0 to {MAX_WARM}, and 0 for a backend other than acp")
    if profile.start_timeout_s <= 0:
        raise ConfigurationError(f"{place}.start_timeout_s: expected a number above 0")
    for name, least in LEAST.items():
        if 0 < getattr(profile, name) < least:
            raise ConfigurationError(f"{place}.{name}: expected 0 for no limit, or at least {least}")


def check_references(name: str, profile: Profile, resources: HostResources) -> None:
    """Raise ConfigurationError if a variable of the profile refers to a secret or gateway that there is not."""
    known = {"secret": resources.secrets, "gateway": resources.gateways, "gateway-key": resources.gateways}
    for variable, value in profile.env.items():
        for kind, _, wanted in (reference.partition(":") for reference in references_in(value)):
            if wanted not in known[kind]:
                names = ", ".join(sorted(known[kind])) or "none, because the configuration has none"
                problem = f"there is no {kind} {wanted!r}; expected one of {names}"
                raise ConfigurationError(f'profiles."{name}".env.{variable}: {problem}')


def _check_mcp_servers(place: str, profile: Profile) -> None:
    try:
        check_servers(profile.mcp_servers, f"{place}.mcp_servers")
    except InvalidRequest as error:
        raise ConfigurationError(error.message) from None
    if profile.mcp_from_clients and not installed_backends()[profile.backend].takes_mcp_servers:
        raise ConfigurationError(f"{place}.mcp_from_clients: expected false for a backend other than acp")


def _check_executable(place: str, profile: Profile) -> None:
    """Refuse an argv and an environment that no program can be started with."""
    _check_argv(place, profile.command)
    for index, name in enumerate(profile.env_pass):
        if not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"{place}.env_pass[{index}]: expected the name of a variable, got {name!r}")
        if name == TOKEN_VARIABLE:
            raise ConfigurationError(f"{place}.env_pass[{index}]: {name} is for clients, not for Workers")
    _check_env(place, profile.env)


def _check_argv(place: str, command: Sequence[str]) -> None:
    for index, word in enumerate(command):
        if "\0" in word:
            raise ConfigurationError(f"{place}.command[{index}]: expected a string without NUL")


def _check_env(place: str, env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"{place}.env: expected names of variables, got {name!r}")
        if "\0" in value:
            raise ConfigurationError(f"{place}.env.{name}: expected a string without NUL")


_profiles = policy_converter()
