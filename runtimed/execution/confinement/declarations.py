"""What the declarations of a config bundle, and the mounts of a request, give a Worker on this host. Pure."""

from collections.abc import Collection, Sequence

import attrs

from runtimed.errors import printable
from runtimed.execution.confinement.judgment import (
    CAPABILITY,
    MOUNTS_FOLDER,
    TABLES,
    held_to,
    judge,
    name_in,
    why_not,
)
from runtimed.execution.grants import Abilities, Grants
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy, NetworkRule
from runtimed.execution.policy import NAME, NAME_RULE, HostResources, Mount, SandboxPolicy
from runtimed.model.bundle import Declaration, DeclarationKind
from runtimed.model.worker import CreateWorkerRequest, NamedReference

MAX_MOUNTS = 16
"""The most mounts of a Worker."""


class DeclarationRefused(Exception):
    """This host cannot give a Worker what its bundle or its request asks for. The message names what."""


def grant(
    declarations: Sequence[Declaration],
    request: CreateWorkerRequest,
    policy: SandboxPolicy,
    resources: HostResources,
    abilities: Abilities,
) -> Grants:
    """Return what a Worker gets.

    Several declarations of one kind add up; the sum is then narrowed by the profile. Without a declaration of a kind
    the profile alone decides, except for mounts: a Worker from a bundle gets only those that the bundle grants.

    Args:
        declarations: Those of its config bundle; none without one.
        request: The request that created it.
        policy: The sandbox of its profile.
        resources: What names mean on this host.
        abilities: What the host can hold Workers to.

    Raises:
        DeclarationRefused: Something is unknown to this host, cannot be enforced, or was not granted.
    """
    for check in judge(declarations, policy, resources, abilities):
        if check.outcome != "enforced":
            place = f"{check.kind} {printable(check.name)!r} ({printable(check.reference)})"
            raise DeclarationRefused(f"{place}: {check.detail}")
    declared = _Declared(declarations, resources)
    granted = declared.names("mount_grant") if request.config_bundle is not None else None
    grants = Grants(
        network=network_of(policy, declared.network_rules()),
        secrets={one.name: name_in(one.reference) for one in declarations if one.kind == "secret_ref"},
        mounts=_mounts(request.mount_refs, granted, policy, resources, abilities),
        executables=declared.executables(),
        git={name: resources.git_policies[name] for name in declared.names("git_policy")},
        capabilities=frozenset(declared.names(CAPABILITY)) or None,
    )
    _check_capabilities(request, grants)
    return grants


@attrs.frozen
class _Declared:
    """The declarations of a bundle, all of which this host knows."""

    declarations: Sequence[Declaration]
    resources: HostResources

    def names(self, kind: DeclarationKind) -> tuple[str, ...]:
        """Return what the declarations of a kind name, each once."""
        return tuple(dict.fromkeys(name_in(one.reference) for one in self.declarations if one.kind == kind))

    def network_rules(self) -> tuple[NetworkRule, ...]:
        """Return the rules of all network policies, each once."""
        policies = self.resources.network_policies
        return tuple(dict.fromkeys(rule for name in self.names("network_policy") for rule in policies[name]))

    def executables(self) -> tuple[str, ...] | None:
        """Return the programs of all shell policies, each once. None without a shell policy."""
        names, policies = self.names("shell_policy"), self.resources.shell_policies
        return tuple(dict.fromkeys(program for name in names for program in policies[name])) if names else None


def network_of(policy: SandboxPolicy, declared: tuple[NetworkRule, ...] = ()) -> NetworkPolicy | None:
    """Return what a Worker may connect to: what the profile and, if there are any, the declared rules allow."""
    match policy.network:
        case "none":
            return NetworkPolicy(())
        case "public":
            lists: tuple[tuple[NetworkRule, ...], ...] = (PUBLIC,)
        case "host":
            lists = ()
        case rules:
            lists = (rules,)
    lists = (*lists, declared) if declared else lists
    return NetworkPolicy(lists) if lists else None


def _mounts(
    references: Sequence[NamedReference],
    granted: Collection[str] | None,
    policy: SandboxPolicy,
    resources: HostResources,
    abilities: Abilities,
) -> dict[str, Mount]:
    """Return the mounts of a request by their names. `granted` are those of the bundle, None without a bundle."""
    if len(references) > MAX_MOUNTS:
        raise DeclarationRefused(f"mount_refs: expected at most {MAX_MOUNTS}")
    mounts: dict[str, Mount] = {}
    held = held_to(policy, abilities)
    for index, one in enumerate(references):
        problem = _mount_problem(one, granted, resources, mounts)
        if problem is None and not held.places_files:
            problem = why_not(policy, held)
        if problem is not None:
            raise DeclarationRefused(f"mount_refs[{index}] ({printable(one.reference)}): {problem}")
        mounts[one.name] = resources.mounts[name_in(one.reference)]
    return mounts


def _mount_problem(
    reference: NamedReference, granted: Collection[str] | None, resources: HostResources, taken: Collection[str]
) -> str | None:
    name = name_in(reference.reference)
    if TABLES.get(reference.reference.partition(":")[0], ("",))[0] != "mount_grant":
        return "expected mount:NAME"
    if name not in resources.mounts:
        return f"this host has no {printable(name)!r} in [mounts]"
    if granted is not None and name not in granted:
        return "the config bundle has no mount_grant for it"
    if not NAME.fullmatch(reference.name):
        return f"expected a name of {NAME_RULE}, because it is the name in {MOUNTS_FOLDER}"
    return "another mount has the same name" if reference.name in taken else None


def _check_capabilities(request: CreateWorkerRequest, grants: Grants) -> None:
    if grants.capabilities is None:
        return
    for index, one in enumerate(request.requested_capabilities):
        if one.name not in grants.capabilities:
            known = ", ".join(sorted(grants.capabilities))
            problem = f"the config bundle grants {known}, not {printable(one.name)!r}"
            raise DeclarationRefused(f"requested_capabilities[{index}]: {problem}")
