"""Judge the declarations of a config bundle: whether this host knows what they name, and can enforce it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runtimed.execution.grants import Abilities
from runtimed.execution.policy import NAME, NAME_RULE, HostResources, SandboxPolicy
from runtimed.model.bundle import Declaration, DeclarationCheck, DeclarationKind, DeclarationOutcome

SECRETS_FOLDER = "/run/secrets"
MOUNTS_FOLDER = "/mnt"
"""Where a Worker finds its secrets and its mounts."""

CAPABILITY: DeclarationKind = "capability_grant"

NO_ABILITIES = Abilities()

TABLES: Mapping[str, tuple[DeclarationKind, str]] = {
    "secret": ("secret_ref", "secrets"),
    "secret-ref": ("secret_ref", "secrets"),
    "mount": ("mount_grant", "mounts"),
    "mount-grant": ("mount_grant", "mounts"),
    "network": ("network_policy", "network_policies"),
    "network-policy": ("network_policy", "network_policies"),
    "shell": ("shell_policy", "shell_policies"),
    "shell-policy": ("shell_policy", "shell_policies"),
    "git": ("git_policy", "git_policies"),
    "git-policy": ("git_policy", "git_policies"),
}
"""By what stands before the colon of a reference: the kind of declaration, and the table of the configuration.
`vault:` and `keyring:` are allowed in bundles and mean nothing here."""


def judge(
    declarations: Sequence[Declaration], policy: SandboxPolicy, resources: HostResources, abilities: Abilities
) -> list[DeclarationCheck]:
    """Return what this host would do with each declaration of a bundle, in their order.

    Args:
        declarations: The declarations.
        policy: The sandbox of the profile.
        resources: What names mean on this host.
        abilities: What the host can hold Workers to.
    """
    has_rules = any(one.kind == "network_policy" for one in declarations)
    held, files, checks = held_to(policy, abilities), set[str](), []
    for one in declarations:
        unknown = _unknown(one, resources)
        problem = unknown or _unenforceable(one, policy, held, has_rules=has_rules) or _file_problem(one, files)
        if one.kind == "secret_ref":
            files.add(one.name)
        outcome: DeclarationOutcome = "unknown" if unknown else "unenforceable" if problem else "enforced"
        detail = problem or _enforced(one, resources, held)
        checks.append(DeclarationCheck(one.kind, one.name, one.reference, outcome, detail))
    return checks


def held_to(policy: SandboxPolicy, abilities: Abilities) -> Abilities:
    """Return what the Workers of a profile can be held to; nothing if its sandbox is off."""
    return NO_ABILITIES if policy.mode == "off" else abilities


def name_in(reference: str) -> str:
    """Return what a reference names, such as `docs` for `mount:docs`."""
    return reference.partition(":")[2]


def _table_for(declaration: Declaration, resources: HostResources) -> Mapping[str, Any]:
    """Return the table of the host that the reference of a declaration is about; an empty one if there is none."""
    kind, table = TABLES.get(declaration.reference.partition(":")[0], ("", ""))
    found: Mapping[str, Any] = getattr(resources, table) if kind == declaration.kind else {}
    return found


def _unknown(declaration: Declaration, resources: HostResources) -> str | None:
    name = name_in(declaration.reference)
    if declaration.kind == CAPABILITY or name in _table_for(declaration, resources):
        return None
    scheme = declaration.reference.partition(":")[0]
    return f"this host has no {name!r} in [{TABLES[scheme][1]}]" if scheme in TABLES else f"this host has no {scheme}"


def _unenforceable(
    declaration: Declaration, policy: SandboxPolicy, held: Abilities, *, has_rules: bool
) -> str | None:
    """Return why a declaration cannot be enforced, or None. `has_rules` tells whether there are network policies."""
    is_able = {
        "secret_ref": held.places_files,
        "mount_grant": held.places_files,
        "network_policy": held.limits_network,
        "shell_policy": held.limits_executables,
        "git_policy": held.limits_network,
    }
    if not is_able.get(declaration.kind, True):
        return why_not(policy, held)
    if declaration.kind == "git_policy" and policy.network == "host" and not has_rules:
        return 'the sandbox of the profile has network = "host": declare a network_policy too'
    return None


def why_not(policy: SandboxPolicy, held: Abilities) -> str:
    """Return why Workers cannot be held to something, in words for clients."""
    if policy.mode == "off":
        return 'the sandbox of the profile has mode = "off"'
    if held.mechanism == "none":
        return "nothing on this host can enforce it: install bubblewrap"
    return f"{held.mechanism} cannot enforce it on this host: runtimectl doctor says what is missing"


def _file_problem(declaration: Declaration, files: Collection[str]) -> str | None:
    if declaration.kind != "secret_ref":
        return None
    if not NAME.fullmatch(declaration.name):
        return f"expected a name of {NAME_RULE}, because it names the file in {SECRETS_FOLDER}"
    return "another secret_ref has the same name" if declaration.name in files else None


def _enforced(declaration: Declaration, resources: HostResources, held: Abilities) -> str:
    name = name_in(declaration.reference)
    match declaration.kind:
        case "secret_ref":
            return f"{held.mechanism}: the file {SECRETS_FOLDER}/{declaration.name}"
        case "mount_grant":
            access = "writable" if resources.mounts[name].writable else "read-only"
            return f"{held.mechanism}: mount_refs may name it, {access}"
        case "network_policy":
            return f"{held.mechanism}, and a proxy in the daemon"
        case "shell_policy":
            return "landlock: only the programs of the policy can be executed"
        case "git_policy":
            access = "fetch and push" if resources.git_policies[name].push else "fetch only"
            return f"a gateway in the daemon: {access}"
        case _:
            return "the Runtime: only what is granted may be requested"
