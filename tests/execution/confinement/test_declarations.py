"""What a config bundle and the mounts of a request give a Worker, and what is refused by name."""

from pathlib import Path

import attrs
import pytest

from runtimed.execution.confinement.declarations import MAX_MOUNTS, DeclarationRefused, grant
from runtimed.execution.confinement.judgment import judge
from runtimed.execution.grants import Abilities, Grants
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy, NetworkRule
from runtimed.execution.policy import GitPolicy, HostResources, Mount, NetworkKind, SandboxPolicy, Secret
from runtimed.model.bundle import Declaration, DeclarationKind
from runtimed.model.profile import NetworkReach
from runtimed.model.worker import BundleReference, CapabilityRequest, CreateWorkerRequest, NamedReference

MODELS, MIRROR = NetworkRule("api.example.org", 443), NetworkRule("mirror.example.org", 443)
DOCS, CACHE = Mount(Path("/srv/docs")), Mount(Path("/srv/cache"), writable=True)
OURS = GitPolicy(("https://git.example.org/team/*",))
HOST = HostResources(
    secrets={"github-token": Secret(env="GITHUB_TOKEN")},
    mounts={"docs": DOCS, "cache": CACHE},
    network_policies={"models": (MODELS,), "mirror": (MIRROR, MODELS)},
    shell_policies={"tests": ("python3", "sh"), "git": ("git", "sh")},
    git_policies={"ours": OURS},
)
ABLE = Abilities("bubblewrap", places_files=True, limits_network=True, limits_executables=True)
LANDLOCK = Abilities("landlock", limits_network=True, limits_executables=True)
FROM_BUNDLE = CreateWorkerRequest(config_bundle=BundleReference("b", "0" * 64))
POLICY = SandboxPolicy()

SECRET = Declaration("secret_ref", "credential", "secret:github-token")
MOUNT = Declaration("mount_grant", "documents", "mount:docs")
NETWORK = Declaration("network_policy", "net", "network:models")
SHELL = Declaration("shell_policy", "programs", "shell:tests")
GIT = Declaration("git_policy", "remotes", "git:ours")
CAPABILITY = Declaration("capability_grant", "tools", "capability:shell")
EVERYTHING = (SECRET, MOUNT, NETWORK, SHELL, GIT, CAPABILITY)


def asking(*mounts: tuple[str, str], bundle: bool = True) -> CreateWorkerRequest:
    references = tuple(NamedReference(name, reference) for name, reference in mounts)
    return attrs.evolve(FROM_BUNDLE if bundle else CreateWorkerRequest(), mount_refs=references)


def refusal(
    declarations: tuple[Declaration, ...],
    request: CreateWorkerRequest = FROM_BUNDLE,
    policy: SandboxPolicy = POLICY,
    abilities: Abilities = ABLE,
) -> str:
    with pytest.raises(DeclarationRefused) as refused:
        grant(declarations, request, policy, HOST, abilities)
    return str(refused.value)


def test_a_worker_gets_what_its_bundle_declares() -> None:
    request = attrs.evolve(asking(("library", "mount:docs")), requested_capabilities=(CapabilityRequest("shell"),))

    grants = grant(EVERYTHING, request, POLICY, HOST, ABLE)

    assert grants == Grants(
        network=NetworkPolicy((PUBLIC, (MODELS,))),
        secrets={"credential": "github-token"},
        mounts={"library": DOCS},
        executables=("python3", "sh"),
        git={"ours": OURS},
        capabilities=frozenset({"shell"}),
    )


def test_without_declarations_the_profile_alone_decides() -> None:
    assert grant((), FROM_BUNDLE, POLICY, HOST, ABLE) == Grants(network=NetworkPolicy((PUBLIC,)))


def test_a_host_that_confines_nothing_runs_what_declares_nothing() -> None:
    assert grant((), CreateWorkerRequest(), SandboxPolicy(network="host"), HOST, Abilities()) == Grants()


def test_declarations_of_one_kind_add_up() -> None:
    more = (
        attrs.evolve(NETWORK, reference="network-policy:mirror"),
        attrs.evolve(SHELL, reference="shell-policy:git"),
    )

    grants = grant((NETWORK, SHELL, *more), FROM_BUNDLE, SandboxPolicy(network="host"), HOST, ABLE)

    assert grants.network == NetworkPolicy(((MODELS, MIRROR),))
    assert grants.executables == ("python3", "sh", "git")


@pytest.mark.parametrize(
    ("network", "lists", "reach"),
    [
        ("none", (), "none"),
        ("public", (PUBLIC, (MODELS,)), "allow-list"),
        ("host", ((MODELS,),), "allow-list"),
        ((MIRROR,), ((MIRROR,), (MODELS,)), "allow-list"),
    ],
)
def test_the_narrower_of_the_networks_of_profile_and_bundle_holds(
    network: NetworkKind | tuple[NetworkRule, ...], lists: tuple[tuple[NetworkRule, ...], ...], reach: NetworkReach
) -> None:
    grants = grant((NETWORK,), FROM_BUNDLE, SandboxPolicy(network=network), HOST, ABLE)

    assert (grants.network, grants.network_reach) == (NetworkPolicy(lists), reach)


@pytest.mark.parametrize("network", ["none", "public", "host"])
def test_the_reach_of_a_network_has_the_name_of_the_profile_where_nothing_is_declared(network: NetworkKind) -> None:
    assert grant((), FROM_BUNDLE, SandboxPolicy(network=network), HOST, ABLE).network_reach == network


@pytest.mark.parametrize("declaration", EVERYTHING[:-1], ids=lambda one: one.kind)
def test_a_name_that_the_host_does_not_know_is_refused_with_its_declaration(declaration: Declaration) -> None:
    scheme = declaration.reference.partition(":")[0]

    message = refusal((attrs.evolve(declaration, reference=f"{scheme}:nope"),))

    assert message.startswith(
        f"{declaration.kind} {declaration.name!r} ({scheme}:nope): this host has no 'nope' in ["
    )


@pytest.mark.parametrize("scheme", ["vault", "keyring"])
def test_a_secret_of_a_vault_is_refused_though_the_host_has_one_of_that_name(scheme: str) -> None:
    message = refusal((attrs.evolve(SECRET, reference=f"{scheme}:github-token"),))

    assert message == f"secret_ref 'credential' ({scheme}:github-token): this host has no {scheme}"


@pytest.mark.parametrize("declaration", EVERYTHING[:-1], ids=lambda one: one.kind)
def test_nothing_is_ignored_where_nothing_confines(declaration: Declaration) -> None:
    named = f"{declaration.kind} {declaration.name!r} ({declaration.reference}): "

    unconfined = refusal((declaration,), abilities=Abilities())
    off = refusal((declaration,), policy=SandboxPolicy(mode="off"))

    assert unconfined == f"{named}nothing on this host can enforce it: install bubblewrap"
    assert off == f'{named}the sandbox of the profile has mode = "off"'


@pytest.mark.parametrize(
    ("declaration", "is_held"), [(SECRET, False), (MOUNT, False), (NETWORK, True), (SHELL, True), (GIT, True)]
)
def test_landlock_places_no_files_and_holds_the_rest(declaration: Declaration, is_held: bool) -> None:
    [check] = judge((declaration,), POLICY, HOST, LANDLOCK)

    assert check.outcome == ("enforced" if is_held else "unenforceable")
    assert "landlock" in check.detail or declaration.kind == "git_policy"


def test_a_git_policy_needs_a_network_that_is_limited() -> None:
    host = SandboxPolicy(network="host")

    assert 'network = "host": declare a network_policy too' in refusal((GIT,), policy=host)
    assert grant((GIT, NETWORK), FROM_BUNDLE, host, HOST, ABLE).git == {"ours": OURS}


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "x" * 65])
def test_the_name_of_a_secret_must_be_the_name_of_a_file(name: str) -> None:
    assert "because it names the file in /run/secrets" in refusal((attrs.evolve(SECRET, name=name),))


def test_two_secrets_cannot_be_one_file() -> None:
    assert "another secret_ref has the same name" in refusal((SECRET, SECRET))


def test_a_mount_that_the_bundle_does_not_grant_is_refused() -> None:
    assert refusal((MOUNT,), asking(("cache", "mount:cache"))) == (
        "mount_refs[0] (mount:cache): the config bundle has no mount_grant for it"
    )
    assert "no mount_grant" in refusal((), asking(("docs", "mount:docs")))


def test_without_a_bundle_a_request_may_name_every_mount_of_the_host() -> None:
    request = asking(("a", "mount:docs"), ("b", "mount-grant:cache"), bundle=False)

    assert grant((), request, POLICY, HOST, ABLE).mounts == {"a": DOCS, "b": CACHE}


@pytest.mark.parametrize(
    ("mounts", "problem"),
    [
        ([("a", "/srv/docs")], "mount_refs[0] (/srv/docs): expected mount:NAME"),
        ([("a", "secret:github-token")], "mount_refs[0] (secret:github-token): expected mount:NAME"),
        ([("a", "mount:nope")], "mount_refs[0] (mount:nope): this host has no 'nope' in [mounts]"),
        ([("a/b", "mount:docs")], "because it is the name in /mnt"),
        ([("a", "mount:docs"), ("a", "mount:cache")], "mount_refs[1] (mount:cache): another mount has the same name"),
        ([(f"m{n}", "mount:docs") for n in range(MAX_MOUNTS + 1)], "mount_refs: expected at most 16"),
    ],
)
def test_a_mount_that_cannot_be_made_is_named(mounts: list[tuple[str, str]], problem: str) -> None:
    assert problem in refusal((), asking(*mounts, bundle=False))


def test_a_mount_is_refused_where_none_can_be_made() -> None:
    request = asking(("a", "mount:docs"), bundle=False)

    assert "install bubblewrap" in refusal((), request, abilities=Abilities())
    assert "landlock cannot enforce it" in refusal((), request, abilities=LANDLOCK)


def test_no_capability_beyond_those_granted_may_be_requested() -> None:
    request = attrs.evolve(
        FROM_BUNDLE, requested_capabilities=(CapabilityRequest("shell"), CapabilityRequest("write"))
    )

    assert refusal((CAPABILITY,), request) == "requested_capabilities[1]: the config bundle grants shell, not 'write'"
    assert grant((), request, POLICY, HOST, ABLE).capabilities is None


def test_a_check_says_what_enforces_each_declaration_and_names_no_path_of_the_host() -> None:
    checks = judge(EVERYTHING, POLICY, HOST, ABLE)

    assert {check.kind: check.detail for check in checks} == {
        "secret_ref": "bubblewrap: the file /run/secrets/credential",
        "mount_grant": "bubblewrap: mount_refs may name it, read-only",
        "network_policy": "bubblewrap, and a proxy in the daemon",
        "shell_policy": "landlock: only the programs of the policy can be executed",
        "git_policy": "a gateway in the daemon: fetch only",
        "capability_grant": "the Runtime: only what is granted may be requested",
    }
    assert {check.outcome for check in checks} == {"enforced"}


def test_a_check_judges_every_declaration() -> None:
    kinds: list[DeclarationKind] = ["secret_ref", "secret_ref", "network_policy"]
    unknown = attrs.evolve(SECRET, reference="secret:nope")

    checks = judge((unknown, SECRET, NETWORK), POLICY, HOST, Abilities("landlock"))

    assert [check.kind for check in checks] == kinds
    assert [check.outcome for check in checks] == ["unknown", "unenforceable", "unenforceable"]
