"""Read the tables that say what names mean on this host: secrets, gateways, mounts and policies."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import attrs

from runtimed.core.state.mcp_server_rules import HEADER_NAME
from runtimed.errors import ConfigurationError, printable
from runtimed.execution.network.rules import NetworkRule
from runtimed.execution.policy import (
    NAME,
    NAME_RULE,
    Gateway,
    GitPolicy,
    HostResources,
    Mount,
    Secret,
)
from runtimed.gateways.credentials import SECRET
from runtimed.gateways.gateway_rules import check_gateway
from runtimed.gateways.git_rules import check_git_policy
from runtimed.settings.sandbox import network_rules
from runtimed.settings.tables import read_table, table_converter
from runtimed.settings.values import TOKEN_VARIABLE
from runtimed.wire.problems import FieldProblem

T = TypeVar("T")

ALLOW_RULE = '"METHOD /PATH", such as "POST /responses"'
HEADER_RULE = "printable characters, with secret:NAME at most once"

_ALLOWED = re.compile(r"[A-Z]{1,32} /[!-~]*", re.ASCII)
_converter = table_converter()


@attrs.frozen
class _ShellPolicy:
    allow: tuple[str, ...]


def read_resources(
    secrets: Mapping[str, Any],
    gateways: Mapping[str, Any],
    mounts: Mapping[str, Any],
    network_policies: Mapping[str, Any],
    shell_policies: Mapping[str, Any],
    git_policies: Mapping[str, Any],
) -> HostResources:
    """Return the resources of the host from their tables. Raises ConfigurationError, which names the wrong key."""
    found = _read_all("secrets", secrets, _secret)
    return HostResources(
        secrets=found,
        gateways=_read_all("gateways", gateways, lambda place, fields: _gateway(place, fields, found)),
        mounts=_read_all("mounts", mounts, lambda place, fields: read_table(place, fields, Mount, _converter)),
        network_policies=_read_all("network_policies", network_policies, _network_policy),
        shell_policies=_read_all("shell_policies", shell_policies, _shell_policy),
        git_policies=_read_all("git_policies", git_policies, lambda place, fields: _git_policy(place, fields, found)),
    )


def _read_all(table: str, fields: Mapping[str, Any], read: Callable[[str, Any], T]) -> dict[str, T]:
    for name in fields:
        if not NAME.fullmatch(name):
            raise ConfigurationError(f"{table}.{printable(name)}: expected a name of {NAME_RULE}")
    return {name: read(f"{table}.{name}", value) for name, value in fields.items()}


def _secret(place: str, fields: Any) -> Secret:
    found = read_table(place, fields, Secret, _converter)
    if (found.file is None) == (found.env is None):
        raise ConfigurationError(f'{place}: expected either file = "/PATH" or env = "NAME"')
    if found.env == TOKEN_VARIABLE:
        raise ConfigurationError(f"{place}.env: {TOKEN_VARIABLE} is for clients, not for Workers")
    if found.env is not None and (not found.env or "=" in found.env or "\0" in found.env):
        raise ConfigurationError(f"{place}.env: expected the name of a variable, got {found.env!r}")
    return found


def _gateway(place: str, fields: Any, secrets: Mapping[str, Secret]) -> Gateway:
    found = read_table(place, fields, Gateway, _converter)
    upstream = _url(f"{place}.upstream", found.upstream)
    if "*" in found.upstream or not upstream.path.isprintable():
        raise ConfigurationError(f"{place}.upstream: expected the URL below which requests are sent, without *")
    _check_headers(place, found.headers, secrets)
    if not found.allow:
        raise ConfigurationError(f"{place}.allow: expected at least one {ALLOW_RULE}")
    for index, allowed in enumerate(found.allow):
        if not _ALLOWED.fullmatch(allowed):
            raise ConfigurationError(f"{place}.allow[{index}]: expected {ALLOW_RULE}, got {allowed!r}")
    for name, value in attrs.asdict(found, recurse=False).items():
        if type(value) in {int, float} and value <= 0:
            raise ConfigurationError(f"{place}.{name}: expected a number above 0")
    _check(place, check_gateway, found)
    return found


def _check_headers(place: str, headers: Mapping[str, str], secrets: Mapping[str, Secret]) -> None:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"{place}.headers: expected names of HTTP headers, got {name!r}")
        wanted = SECRET.findall(value)
        if not value.isprintable() or len(wanted) > 1:
            raise ConfigurationError(f"{place}.headers.{name}: expected {HEADER_RULE}")
        if wanted and wanted[0] not in secrets:
            known = ", ".join(sorted(secrets)) or "none, because the configuration has none"
            problem = f"there is no secret {wanted[0]!r}; expected one of {known}"
            raise ConfigurationError(f"{place}.headers.{name}: {problem}")


def _network_policy(place: str, fields: Any) -> tuple[NetworkRule, ...]:
    try:
        return network_rules(fields)
    except FieldProblem as error:
        problem = error.within(place)
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error


def _shell_policy(place: str, fields: Any) -> tuple[str, ...]:
    allowed = read_table(place, fields, _ShellPolicy, _converter).allow
    if not allowed:
        raise ConfigurationError(f"{place}.allow: expected at least one program")
    for index, program in enumerate(allowed):
        if not program.isprintable() or not program or ("/" in program and not program.startswith("/")):
            problem = f"expected the name of a program or its absolute path, got {program!r}"
            raise ConfigurationError(f"{place}.allow[{index}]: {problem}")
    return allowed


def _git_policy(place: str, fields: Any, secrets: Mapping[str, Secret]) -> GitPolicy:
    found = read_table(place, fields, GitPolicy, _converter)
    if not found.remotes:
        raise ConfigurationError(f"{place}.remotes: expected at least one URL of a repository")
    for index, remote in enumerate(found.remotes):
        _url(f"{place}.remotes[{index}]", remote)
        if "*" in remote[:-1]:
            raise ConfigurationError(f"{place}.remotes[{index}]: expected a * only at the end, got {remote!r}")
    _check_headers(place, found.headers, secrets)
    _check(place, check_git_policy, found)
    return found


def _check(place: str, check: Callable[[T], None], found: T) -> None:
    """Apply the rules of the gateway that will use a value, so that no Worker fails over them later."""
    try:
        check(found)
    except ValueError as error:
        raise ConfigurationError(f"{place}.{error}") from None


def _url(place: str, text: str) -> SplitResult:
    rule = "an http:// or https:// URL with a host, and without user, query and fragment"
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or set(text) & set("@?#\\ ") or not text.isprintable() or "*" in parts.netloc:
        raise ConfigurationError(f"{place}: expected {rule}")
    return parts
