"""What bundles, profiles and the host give to confined Workers, and that others have none of it."""

import hashlib
import shlex
from pathlib import Path

import pytest

from tests.security.conftest import (
    PYTHON,
    SECRET,
    USERS,
    FindSite,
    Mechanism,
    NeighborSite,
    User,
    each_mechanism,
    each_mechanism_once,
    each_user,
    share_sites,
)

pytestmark = share_sites

DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
MOUNTS = [{"name": "library", "reference": "mount:docs"}, {"name": "kept", "reference": "mount:cache"}]
FILE = "/run/secrets/secret_ref-declared"
LOOK = f"""
sha256sum <{FILE}
stat -c "%a %s" {FILE}
ls /run/secrets /mnt
echo changed >{FILE}
cat /mnt/library/text /mnt/kept/text
echo changed >/mnt/library/text
echo made >/mnt/kept/made
/usr/bin/id
"""
SEEN_IN_HOME = {
    "read a file in the home of the user",
    "change a file in the home of the user",
    "send to a socket with a path",
    "send to a socket with a path from one of a pair",
}
"""What `home = "user"` opens. A socket can be connected to wherever it is visible."""

COVERS = {"list the endpoint folder", "make a file in the store"}
"""What an empty folder lets a program do in the place of a hidden one."""


def stored(site: NeighborSite, worker_id: str) -> str:
    """Return all that the daemon keeps, and says, of its Workers."""
    files = [path for path in site.place.store.rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() for path in files).decode(errors="replace")
    return f"{kept} {site.daemon.log(worker_id)} {site.daemon.worker(worker_id)} {site.daemon.errors}"


def hunt(site: NeighborSite) -> str:
    """Return where another Worker finds the secret: in processes, and in files."""
    program, folders = (
        str(site.place.shared / "gateway.py"),
        (*map(str, site.place.own), "/run/secrets", "."),
    )
    return site.run("shell", PYTHON, program, "hunt", SECRET[::-1], *folders)


@each_user
def test_a_worker_has_the_secrets_mounts_and_programs_of_its_bundle(find_site: FindSite, user: User) -> None:
    site = find_site(user, "bubblewrap")
    declared = {"secret_ref": "secret:declared", "mount_grant": "mount:docs mount:cache", "shell_policy": "shell:few"}
    bundle = site.bundle("shell", **declared, capability_grant="capability:shell")
    worker_id = site.create("shell", config_bundle=bundle, mount_refs=MOUNTS)

    said = site.say(f"{{ {LOOK} }} 2>&1", worker_id)

    assert said.startswith(f"{DIGEST}  -\n400 {len(SECRET)}\n")
    assert "/mnt:\nkept\nlibrary\n\n/run/secrets:\nsecret_ref-declared\n" in said
    assert "of docs\nof cache\n" in said
    assert f"{FILE}: Permission denied" in said or f"{FILE}: Read-only file system" in said
    assert "/mnt/library/text: Read-only file system" in said
    assert "/usr/bin/id: Permission denied" in said
    assert "uid=" not in said
    assert (site.place.shared.parent / "cache" / "made").read_text() == "made\n"
    assert SECRET not in stored(site, worker_id)


@each_mechanism_once
def test_the_programs_of_a_shell_policy_are_the_only_ones(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)
    worker_id = site.create("shell", config_bundle=site.bundle("shell", shell_policy="shell:few"))

    refused = site.say("cat /proc/self/comm; /usr/bin/id 2>&1", worker_id)
    free = site.say("/usr/bin/id", site.worker("shell"))

    assert refused.startswith("cat\n")
    assert "Permission denied" in refused
    assert free.startswith("uid=")


@each_user
@each_mechanism
def test_a_secret_of_a_profile_is_in_its_own_workers_alone(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)
    worker_id = site.create("keyed")

    held = site.say('printf %s "$KEY" | sha256sum', worker_id)

    assert held == f"{DIGEST}  -\n"
    assert hunt(site) == "PROBED []\n"
    assert SECRET not in stored(site, worker_id)


@each_user
def test_the_same_search_finds_the_secret_without_a_sandbox(find_site: FindSite, user: User) -> None:
    site = find_site(user, "none")
    site.create("keyed")

    found = hunt(site)

    assert "/environ" in found
    assert str(site.place.home / "secret") in found


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"secret_ref": "secret:declared"}, "secret_ref 'secret_ref-declared' (secret:declared)"),
        ({"mount_grant": "mount:docs"}, "mount_grant 'mount_grant-docs' (mount:docs)"),
    ],
    ids=["a secret", "a mount"],
)
def test_what_landlock_cannot_place_rejects_the_worker_by_name(
    find_site: FindSite, declared: dict[str, str], named: str
) -> None:
    site = find_site(USERS[0], "landlock")

    _, execution = site.spawn("shell", config_bundle=site.bundle("shell", **declared))

    assert execution["run_state"] == "rejected"
    assert named in execution["last_result"]["message"]


@pytest.mark.parametrize("user", [user for user in USERS if user != "root"])
def test_in_the_home_of_the_user_what_belongs_to_the_daemon_stays_hidden(find_site: FindSite, user: User) -> None:
    site = find_site(user, "bubblewrap")

    worker_id = site.create("at-home")
    folders = shlex.join([site.targets.store, str(Path(site.targets.endpoint).parent)])

    found = site.probe("shell", worker_id)
    listed = site.say(f"for folder in {folders}; do echo x >$folder/made; ls -A $folder; done", worker_id)

    assert {name for name, why in found.items() if not why} == SEEN_IN_HOME | COVERS
    assert listed.splitlines() == ["made", "workers", "made"]
    assert not (site.place.store / "made").exists()


@pytest.mark.parametrize("user", [user for user in USERS if user != "root"])
def test_landlock_gives_no_home_that_holds_what_belongs_to_the_daemon(find_site: FindSite, user: User) -> None:
    site = find_site(user, "landlock")

    _, execution = site.spawn("at-home")

    assert execution["run_state"] == "rejected"
    assert "Landlock cannot hide what belongs to the daemon within" in execution["last_result"]["message"]
