"""Read `[sandbox]`, and the tables that profiles put over it."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import attrs
from cattrs import Converter

from runtimed.errors import ConfigurationError
from runtimed.execution.network.rules import NetworkRule
from runtimed.execution.policy import FIRST_UID, LAST_UID, NetworkKind, SandboxPolicy
from runtimed.settings.tables import check_keys, read_table, table_converter
from runtimed.wire.problems import FieldProblem, expected

UIDS = "uids"
"""The key that only `[sandbox]` has."""

HOME_OF_ROOT = "expected worker: no Worker can use the home of root. Run the daemon as an ordinary user for user"
MAX_UID = 2**32 - 2
UIDS_RULE = f'a range of user ids from 1 to {MAX_UID}, such as "{FIRST_UID}-{LAST_UID}"'
NETWORK_KINDS = get_args(NetworkKind)
NETWORK_RULE = f'one of {", ".join(NETWORK_KINDS)}, or a list such as ["api.example.com:443", "*.example.com:443"]'

_RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})", re.ASCII)


def read_sandbox(place: str, fields: Any, base: SandboxPolicy | None = None) -> SandboxPolicy:
    """Return the policy of a table: its keys replace those of `base`.

    Args:
        place: The path of the table, for errors.
        fields: The table as TOML has it.
        base: The policy of `[sandbox]` for the table of a profile; without it the table is `[sandbox]` itself.

    Raises:
        ConfigurationError: A key or a value is not accepted; the message names its path.
    """
    if base is None:
        base, fields = SandboxPolicy(), _without_uids(place, fields)
    elif type(fields) is dict and UIDS in fields:
        raise ConfigurationError(f"{place}.{UIDS}: expected in [sandbox] only")
    found = read_table(place, fields, SandboxPolicy, _converter)
    return attrs.evolve(base, **{name: getattr(found, name) for name in fields})


def read_uids(place: str, fields: Any) -> range:
    """Return the user ids that `[sandbox]` gives to Workers. Raises ConfigurationError."""
    text = fields.get(UIDS, f"{FIRST_UID}-{LAST_UID}")
    matched = _RANGE.fullmatch(text) if type(text) is str else None
    first, last = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not 1 <= first <= last <= MAX_UID:
        raise ConfigurationError(f"{place}.{UIDS}: expected {UIDS_RULE}")
    return range(first, last + 1)


def check_paths(place: str, policy: SandboxPolicy, private: Iterable[Path]) -> None:
    """Raise ConfigurationError if a path of the policy would open what Workers must never reach.

    The home of root is among that: no Worker runs as root, and so it could not use it either.

    Args:
        place: The path of the table, for errors.
        policy: The policy.
        private: The paths of the store, the token and the secrets.
    """
    private = tuple(private)
    if policy.home == "user" and policy.mode != "off" and os.geteuid() == 0:
        raise ConfigurationError(f"{place}.home: {HOME_OF_ROOT}")
    for path in policy.readonly:
        check_exposed(f"{place}.readonly", path, private, writable=False)
    for path in policy.writable:
        check_exposed(f"{place}.writable", path, private, writable=True)


def check_exposed(place: str, path: Path, private: Iterable[Path], *, writable: bool) -> None:
    """Raise ConfigurationError if a Worker must not be given this path: a part of what is private.

    A path that is writable must not be `/` and must not hold something private either.
    """
    path = Path(os.path.realpath(path))
    if writable and path == Path("/"):
        raise ConfigurationError(f"{place}: expected a path other than /")
    for other in map(Path, map(os.path.realpath, private)):
        if path.is_relative_to(other) or (writable and other.is_relative_to(path)):
            raise ConfigurationError(f"{place}: {path}: expected a path apart from the daemon's own {other}")


def _without_uids(place: str, fields: Any) -> Any:
    if type(fields) is not dict:
        return fields
    check_keys(place, fields, (*(field.name for field in attrs.fields(SandboxPolicy)), UIDS))
    return {name: value for name, value in fields.items() if name != UIDS}


def _network(value: Any, _type: Any) -> NetworkKind | tuple[NetworkRule, ...]:
    if type(value) is str and value in NETWORK_KINDS:
        return value  # type: ignore[return-value] # one of the literals
    if type(value) is not list:
        raise FieldProblem(f"expected {NETWORK_RULE}")
    return network_rules(value)


def network_rules(value: Any) -> tuple[NetworkRule, ...]:
    """Return the rules of a list. Raises FieldProblem."""
    if type(value) is not list or not value:
        raise FieldProblem('expected a list of rules that is not empty, such as ["api.example.com:443"]')
    return tuple(_rule(f"[{index}]", text) for index, text in enumerate(value))


def _rule(place: str, text: Any) -> NetworkRule:
    if type(text) is not str:
        raise expected("a string", text).within(place)
    try:
        return NetworkRule.parse(text)
    except ValueError as error:
        raise FieldProblem(str(error), place) from None


def policy_converter() -> Converter:
    """Return a converter for tables that hold a policy."""
    made = table_converter()
    network = attrs.fields(SandboxPolicy).network.type
    made.register_structure_hook_func(lambda kind: kind == network, _network)
    return made


_converter = policy_converter()
