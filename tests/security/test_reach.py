"""Targets section 3, confinement: what the programs of a Worker cannot reach, and do reach without a sandbox."""

import os
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.security.conftest import WAYS, FindSite, Mechanism, User, each_mechanism, each_user, share_sites
from tests.security.programs.probe import ATTEMPTS

pytestmark = share_sites

CAP_SYS_ADMIN = 21

CHANGE_REPOSITORY = """
cd "$(git rev-parse --path-format=absolute --git-common-dir)"
for path in config config.lock config.worktree commondir gitdir HEAD index packed-refs shallow hooks/pre-commit \\
    info/attributes modules/inner/config rebase-merge/git-rebase-todo worktrees/new/commondir worktrees/*/commondir
do
    case $path in "worktrees/$(basename "$OLDPWD")"/*) continue ;; esac
    mkdir -p "$(dirname "$path")"
    echo changed >"$path"
done
for path in config hooks info packed-refs worktrees; do mv "$path" moved; rm -rf "$path"; ln -s /tmp "$path"; done
cd "$OLDPWD"
git config core.fsmonitor "touch changed"
git config core.hooksPath "$PWD"
git worktree add new
echo done
"""

LEFT_OPEN: Mapping[Mechanism, frozenset[str]] = {
    "bubblewrap": frozenset(),
    # Landlock knows the content of files, TCP, signals and abstract sockets. These belong to neither.
    "landlock": frozenset(
        {
            "see the size of the token",
            "change the mode of the token",
            "read the command line of another program",
            "change the priority of another program",
            "choose the processors of another program",
            "attach the system v memory of another program",
        }
    ),
}

NAMES = {"shell": "from a shell", "process": "from a process", "agent": "from an agent", "terminal": "in a terminal"}

each_way = pytest.mark.parametrize("way", [pytest.param(way, id=NAMES[way]) for way in WAYS])


@each_way
@each_user
@each_mechanism
def test_a_confined_program_reaches_nothing_that_it_was_not_given(
    find_site: FindSite, mechanism: Mechanism, user: User, way: str
) -> None:
    site = find_site(user, mechanism)

    found = site.probe(way)

    sandbox = site.daemon.worker(site.worker(way))["execution"]["sandbox"]
    assert sandbox == {"mechanism": mechanism, "network": "public"}
    assert {name for name, why in found.items() if not why} == LEFT_OPEN[mechanism]


@each_user
@each_mechanism
def test_a_worker_in_a_worktree_of_the_daemons_user_reaches_no_more(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)

    found = site.probe("shell", site.create_in_worktree())

    assert {name for name, why in found.items() if not why} == LEFT_OPEN[mechanism]


@each_user
@each_mechanism
def test_a_worker_in_a_worktree_changes_nothing_that_git_executes_for_others(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)
    other, worker_id = site.create_in_worktree(), site.create_in_worktree()
    repository = site.place.repository / ".git"
    before = _without_work(repository, worker_id)

    site.say(CHANGE_REPOSITORY, worker_id)

    assert _without_work(repository, worker_id) == before
    assert any(other in name for name in before)


@each_user
def test_other_users_of_the_host_cannot_use_the_proxy_of_a_worker(find_site: FindSite, user: User) -> None:
    site = find_site(user, "landlock")
    url = urlsplit(site.run("shell", "printenv", "HTTP_PROXY").strip())
    assert url.hostname is not None
    own = b64encode(f"{url.username}:{url.password}".encode()).decode()

    found = []
    for headers in ({}, {"Proxy-Authorization": "Basic d29ya2VyOg=="}, {"Proxy-Authorization": f"Basic {own}"}):
        with closing(HTTPConnection(url.hostname, url.port, timeout=30)) as connection:
            connection.request("GET", "http://127.0.0.1:1/", headers=headers)
            found.append(connection.getresponse().status)

    assert found == [407, 407, 403]


@each_user
@each_mechanism
def test_the_daemon_reads_and_writes_nothing_for_an_agent_that_the_agent_could_not(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)
    targets, config = site.targets, site.place.config.read_text()
    script = f"echo own >own; ln -sfn {targets.token} token; ln -sfn {targets.config} config; ln -sfn / root; pwd"
    home = site.run("terminal", "sh", "-c", script).strip()
    ways = (targets.token, f"{home}/token", f"{home}/root{targets.token}", targets.other_worker, "/proc/self/environ")

    read = {path: site.ask("fs/read_text_file", path=path) for path in ways}
    written = {
        path: site.ask("fs/write_text_file", path=path, content="changed")
        for path in (targets.config, f"{home}/config", f"{home}/root{targets.config}")
    }

    assert site.ask("fs/read_text_file", path=f"{home}/own") == {"content": "own\n"}
    assert {path: list(answer) for path, answer in read.items() if "error" not in answer} == {}
    assert {path: list(answer) for path, answer in written.items() if "error" not in answer} == {}
    assert site.place.config.read_text() == config


@each_way
@each_user
def test_the_same_program_reaches_it_without_a_sandbox(find_site: FindSite, user: User, way: str) -> None:
    found = find_site(user, "none").probe(way)

    able = {"anyone", "root"} if user == "root" and _may_administer() else {"anyone"}
    assert {name: why for name, why in found.items() if why and ATTEMPTS[name][1] in able} == {}


def _without_work(repository: Path, worker_id: str) -> Mapping[str, bytes | None]:
    """Return the files of a repository, without objects, refs, logs and what is of the worktree of a Worker."""
    found = [path.relative_to(repository) for path in repository.rglob("*")]
    kept = [path for path in found if path.parts[0] not in {"objects", "refs", "logs"} and worker_id not in str(path)]
    return {str(path): (repository / path).read_bytes() if (repository / path).is_file() else None for path in kept}


def _may_administer() -> bool:
    """Return whether root has the capabilities of root here. In a container it often does not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (held,) = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    return os.geteuid() == 0 and bool(held >> CAP_SYS_ADMIN & 1)
