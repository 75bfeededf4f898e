"""Daemons that confine their Workers by each mechanism, as each user, and what runs in them."""

import contextlib
import ctypes
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytest

from runtimed.store.data_dir import DATABASE
from tests.acceptance.conftest import SHAPES, check, make_bundle
from tests.acceptance.daemon.conftest import Daemon
from tests.security.programs.probe import Targets

User = Literal["root", "another user", "this user"]
Mechanism = Literal["bubblewrap", "landlock", "none"]

PROGRAMS = Path(__file__).parent / "programs"
REPOSITORY = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
PATH = "/usr/local/bin:/usr/bin:/bin"

OUTSIDE = "/var/tmp"
"""Where the folders of daemons are: everybody finds it, and Workers have no such folder of their own."""

NOBODY = 65534
AS_NOBODY = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
USERS: Sequence[User] = ("root", "another user") if os.geteuid() == 0 else ("this user",)
WAYS = ("shell", "process", "agent", "terminal")
"""What a command of a Worker can be run by, named as the profile for it. The last is the terminal of an agent."""

ABSENT: Mapping[Mechanism, Sequence[str]] = {
    "bubblewrap": (),
    "landlock": ("bwrap", "unshare"),
    "none": ("bwrap", "unshare"),
}
"""The programs that are not in PATH. Without `unshare` there are no other namespaces either, as in a container."""

LANDLOCK_ABI = 6
"""The first version of Landlock that holds all that these tests expect."""

SCOPED, VERSION = 444, 1

share_sites = pytest.mark.xdist_group("confined")
"""Has one process run all tests that share daemons, where several run tests: each would start all of them."""

each_user = pytest.mark.parametrize("user", [pytest.param(user, id=f"as {user}") for user in USERS])
each_mechanism = pytest.mark.parametrize(
    "mechanism", [pytest.param("bubblewrap", id="by bubblewrap"), pytest.param("landlock", id="by Landlock")]
)

CONFIG = """
[sandbox]
mode = "{mode}"
readonly = ["{shared}"]

[profiles."builtin:shell"]
backend = "shell"
capabilities = ["shell"]

[profiles."builtin:process"]
backend = "process"
command = ["{python}", "{shared}/process.py"]

[profiles."builtin:agent"]
backend = "acp"
command = ["{python}", "{shared}/agent.py", "here"]

[profiles."builtin:terminal"]
backend = "acp"
command = ["{python}", "{shared}/agent.py", "terminal"]
capabilities = ["read", "shell", "write"]

[profiles."builtin:strict"]
backend = "shell"
capabilities = ["shell"]

[profiles."builtin:strict".sandbox]
mode = "required"

[workspaces."repo:worktree"]
path = "{repository}"
mode = "worktree"
"""

each_mechanism_once = pytest.mark.parametrize(
    ("mechanism", "user"),
    [
        pytest.param("bubblewrap", USERS[0], id=f"by bubblewrap as {USERS[0]}"),
        pytest.param("landlock", USERS[-1], id=f"by Landlock as {USERS[-1]}"),
    ],
)
"""For what the daemon does itself: the user of a program makes no difference to it."""

SECRET = f"secret-{secrets.token_hex(16)}"
"""What the secrets of the host contain, and what is nowhere else."""

GRANTS = """
[secrets]
declared = {{ file = "{home}/secret" }}

[mounts]
docs = {{ path = "{base}/docs" }}
cache = {{ path = "{base}/cache", writable = true }}

[shell_policies]
few = {{ allow = ["sh", "cat", "ls", "stat", "sha256sum"] }}

[profiles."builtin:keyed"]
backend = "shell"
capabilities = ["shell"]
env = {{ KEY = "secret:declared" }}
"""
"""What the host gives to Workers whose bundles or profiles name it."""

HOME_OF_USER = """
[profiles."builtin:at-home"]
backend = "shell"
capabilities = ["shell"]

[profiles."builtin:at-home".sandbox]
home = "user"
"""
"""A daemon that is root refuses it."""


@dataclass(frozen=True)
class Place:
    """Folders of a daemon.

    Attributes:
        user: Who the daemon runs as.
        home: The home of this user, which has the store and the configuration.
        shared: What everybody may read: programs of tests.
        absent: The programs that are not in PATH.
    """

    user: User
    home: Path
    shared: Path
    absent: Sequence[str] = ()

    @property
    def repository(self) -> Path:
        return self.home.with_name("repository")

    @property
    def own(self) -> Sequence[Path]:
        """All folders, but that with the tools of the host."""
        return (self.home, self.shared, self.repository)

    @property
    def path(self) -> str:
        return str(self.shared.parent / "tools") if self.absent else PATH

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    def grants(self) -> str:
        """Make what the host gives to Workers, and return the configuration that says so."""
        base = self.shared.parent
        for name in ("docs", "cache"):
            (base / name).mkdir()
            (base / name).chmod(0o777)
            (base / name / "text").write_text(f"of {name}\n")
        (self.home / "secret").touch(mode=0o600)
        self.give(self.home / "secret").write_text(SECRET)
        return GRANTS.format(home=self.home, base=base) + ("" if self.user == "root" else HOME_OF_USER)

    def give(self, path: Path) -> Path:
        """Give a file to the user of the daemon."""
        if self.user == "another user":
            os.chown(path, NOBODY, NOBODY)
        return path

    def command(self, *argv: str) -> list[str]:
        """Return a command that runs another as the user of the daemon, who has no capabilities then."""
        if self.user == "this user":
            return list(argv)
        user = AS_NOBODY if self.user == "another user" else ()
        return ["setpriv", *user, "--inh-caps=-all", "--bounding-set=-all", *argv]


@dataclass
class Site:
    """A daemon.

    Attributes:
        place: Its folders.
        daemon: The daemon.
    """

    place: Place
    daemon: Daemon
    workers: dict[str, str] = field(default_factory=dict, kw_only=True)

    def worker(self, way: str) -> str:
        """Return a Worker that runs commands, the same one each time."""
        if way not in self.workers:
            self.workers[way] = self.create(way)
        return self.workers[way]

    def create(self, way: str, **request: Any) -> str:
        """Return a new Worker."""
        worker_id, execution = self.spawn(way, **request)
        assert execution["run_state"] == "idle", (execution, self.daemon.errors)
        return worker_id

    def spawn(self, way: str, **request: Any) -> tuple[str, dict[str, Any]]:
        """Return a new Worker, and what came of its spawn."""
        profile = {"kind": "builtin", "value": f"builtin:{way}"}
        worker_id = self.daemon.create(profile=profile, requested_capabilities=capabilities(way), **request)
        return worker_id, self.daemon.worker(worker_id)["execution"]

    def bundle(self, way: str, **declared: str) -> dict[str, str]:
        """Store a bundle that declares things by their references, several with spaces; return its reference."""
        declarations = [
            {"kind": kind, "name": f"{kind}-{one.partition(':')[2]}", "reference": one}
            for kind, references in declared.items()
            for one in references.split()
        ]
        selector = {"kind": "builtin", "value": f"builtin:{way}"}
        bundle = make_bundle(profiles=[{"selector": selector}], declarations=declarations)
        stored = self.daemon.call("POST", "/v1/config-bundles", {"bundle": bundle}).ok("availability")
        reference: dict[str, str] = stored["reference"]
        return reference

    def create_in_worktree(self) -> str:
        """Return a new shell Worker in a worktree of the repository."""
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        return self.create("shell", workspace_refs=[{"name": "cwd", "reference": "repo:worktree"}])

    def run(self, way: str, *argv: str, worker_id: str | None = None) -> str:
        """Return the output of a command, run by a Worker."""
        content = shlex.join(argv) if way == "shell" else json.dumps(argv)
        return self.say(content, worker_id or self.worker(way))

    def ask(self, method: str, **params: str) -> dict[str, Any]:
        """Return what the daemon answers to a request of an agent."""
        said = self.say(json.dumps({"method": method, "params": params}), self.worker("terminal"))
        answer: dict[str, Any] = json.loads(said)
        return answer

    def say(self, content: str, worker_id: str) -> str:
        """Return the output of a Worker for an input."""
        events = self.daemon.run(worker_id, content)
        texts = [one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_done"]
        assert texts, events
        return "".join(texts)


@dataclass
class NeighborSite(Site):
    """A daemon, with another program of its user.

    Attributes:
        neighbor: The other program.
        about: What it says of itself.
    """

    neighbor: subprocess.Popen[str]
    about: Mapping[str, Any]

    def probe(self, way: str, worker_id: str | None = None) -> dict[str, str]:
        """Return the outcome of each attempt of the probe."""
        file = self.place.shared / "targets.json"
        if not file.exists():
            file.write_text(json.dumps(self.targets._asdict()))
        output = self.run(way, PYTHON, str(self.place.shared / "probe.py"), str(file), worker_id=worker_id)
        found = re.search(r"^PROBED (.*)$", output, re.MULTILINE)
        assert found, output
        outcomes: dict[str, str] = json.loads(found[1])
        assert not {name: why for name, why in outcomes.items() if why.startswith("broken")}
        assert self.neighbor.poll() is None
        return outcomes

    @cached_property
    def targets(self) -> Targets:
        other = self.run("shell", "sh", "-c", "umask 077; echo kept >kept; pwd", worker_id=self.create("shell"))
        folder = Path(other.strip())
        return Targets(
            daemon=self.daemon.pid,
            port=self.daemon.address[1],
            unix=str(self.place.home / "socket"),
            token=str(self.place.store / "token"),
            store=str(self.place.store),
            database=str(self.place.store / DATABASE),
            config=str(self.place.config),
            endpoint=str(self.daemon.endpoint),
            other_worker=str(folder / "kept"),
            private=str(self.place.home / "private"),
            **self.about,
        )


def capabilities(way: str) -> list[dict[str, str]]:
    """Return the capabilities that a Worker must request."""
    names = {"process": (), "listed-process": (), "agent": (), "terminal": ("read", "shell", "write")}
    return [{"name": name} for name in names.get(way, ("shell",))]


def shaped(value: Any, name: str) -> None:
    check(value, SHAPES[name])


@contextlib.contextmanager
def new_place(user: User, absent: Sequence[str] = ()) -> Iterator[Place]:
    """Make the folders of a daemon."""
    with tempfile.TemporaryDirectory(prefix="runtimed-", dir=OUTSIDE) as text:
        base = Path(text)
        base.chmod(0o755)
        shutil.copytree(PROGRAMS, base / "shared", ignore=shutil.ignore_patterns("__pycache__"))
        place = Place(user, base / "home", base / "shared", absent)
        for folder in (place.home, place.home / "run"):
            folder.mkdir(mode=0o700)
            place.give(folder)
        if absent:
            _link_tools(base / "tools", absent)
        if shutil.which("git") is not None:
            _make_repository(place)
        yield place


def _make_repository(place: Place) -> None:
    place.repository.mkdir()
    place.give(place.repository)
    author = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        command = place.command("git", "-C", str(place.repository), *words)
        subprocess.run(command, env={"HOME": "/", "PATH": PATH}, check=True)


def _link_tools(folder: Path, absent: Sequence[str]) -> None:
    folder.mkdir()
    tools = [tool for name in PATH.split(":") if Path(name).is_dir() for tool in Path(name).iterdir()]
    for tool in tools:
        if tool.name not in absent:
            with contextlib.suppress(FileExistsError):
                (folder / tool.name).symlink_to(tool)


@contextlib.contextmanager
def new_daemon(
    place: Place, mode: str, *, wrapper: Sequence[str] = (), before: Sequence[str] = (), more: str = "", port: int = 0
) -> Iterator[Daemon]:
    """Start a daemon, and stop it at the end.

    Args:
        place: Its folders.
        mode: That of all sandboxes.
        wrapper: A command that runs it as its user.
        before: A command that runs all of it, as the user of the tests.
        more: What else its configuration has.
        port: Its port.
    """
    names = {"mode": mode, "shared": place.shared, "python": PYTHON, "repository": place.repository}
    place.config.write_text(CONFIG.format_map(names) + more)
    place.config.chmod(0o600)
    place.give(place.config)
    (place.home / "private").touch(mode=0o600)
    place.give(place.home / "private").write_text("private")
    options = ["--config", str(place.config), "--listen", f"127.0.0.1:{port}"]
    options += ["--listen", f"unix:{place.home}/socket"]
    environment = {"PATH": place.path, "PYTHONDONTWRITEBYTECODE": "1"}
    wrapper = [*before, *(seen_by_nobody() if place.user == "another user" else ()), *wrapper]
    daemon = Daemon(place.home, shaped, f"fs:{place.store}", options, environment, wrapper)
    try:
        yield daemon.ready()
    finally:
        daemon.finish()


def seen_by_nobody() -> Sequence[str]:
    """Return what runs a program as another user, who finds our interpreter and our code even in a closed home."""
    needed = [Path(path) for path in dict.fromkeys((sys.base_prefix, sys.prefix, str(REPOSITORY)))]
    closed = {top for path in needed for top in path.parents if not top.stat().st_mode & 0o001}
    tops = [path for path in closed if not closed & set(path.parents)]
    lines = ["mount --make-rprivate /", "mount -t tmpfs -o mode=755 probe /mnt"]
    hidden = [(number, path) for number, path in enumerate(needed) if closed & set(path.parents)]
    lines += [
        f"mkdir /mnt/{number} && mount --bind {shlex.quote(str(path))} /mnt/{number}" for number, path in hidden
    ]
    lines += [f"mount -t tmpfs -o mode=755 probe {shlex.quote(str(top))}" for top in tops]
    for number, path in hidden:
        lines.append(f"mkdir -p {shlex.quote(str(path))} && mount --bind /mnt/{number} {shlex.quote(str(path))}")
    script = "\n".join(["set -e", "umask 022", *lines, f'exec setpriv {" ".join(AS_NOBODY)} "$@"'])
    return [shutil.which("unshare") or "unshare", "--mount", "sh", "-c", script, "sh"]


@contextlib.contextmanager
def new_neighbor(place: Place) -> Iterator[tuple[subprocess.Popen[str], Mapping[str, Any]]]:
    """Start another program of the daemon's user."""
    command = place.command(PYTHON, str(place.shared / "neighbor.py"), str(place.home))
    environment = {"PATH": PATH, "SECRET": secrets.token_hex(8)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.communicate()


def require(mechanism: Mechanism, user: User) -> None:
    """Skip the test if this host does not have a mechanism."""
    if shutil.which(PYTHON) is None:
        pytest.skip(f"{PYTHON} is not installed")
    if mechanism == "bubblewrap":
        before = ["setpriv", *AS_NOBODY] if user == "another user" else []
        bubblewrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
        if shutil.which("bwrap") is None or subprocess.run([*before, *bubblewrap], check=False).returncode:
            pytest.skip("bubblewrap is not installed, or cannot make a sandbox here")
    if mechanism == "landlock" and ctypes.CDLL(None).syscall(SCOPED, None, 0, VERSION) < LANDLOCK_ABI:
        pytest.skip(f"the kernel does not have version {LANDLOCK_ABI} of Landlock")


def mode_of(user: User, mechanism: Mechanism) -> str:
    """Return the mode in which a daemon has this mechanism, if it is the only one that it finds."""
    is_held = user == "another user" or mechanism == "bubblewrap"
    return "off" if mechanism == "none" else "required" if is_held else "best"


FindSite = Callable[[User, Mechanism], NeighborSite]


@pytest.fixture(scope="session")
def find_site() -> Iterator[FindSite]:
    """Return a function that starts a daemon for a mechanism and a user, the same one each time.

    It skips the test if this host does not have the mechanism.
    """
    with contextlib.ExitStack() as stack:
        found: dict[tuple[User, Mechanism], NeighborSite] = {}

        def find(user: User, mechanism: Mechanism) -> NeighborSite:
            require(mechanism, user)
            if (user, mechanism) not in found:
                place = stack.enter_context(new_place(user, ABSENT[mechanism]))
                daemon = stack.enter_context(new_daemon(place, mode_of(user, mechanism), more=place.grants()))
                found[user, mechanism] = NeighborSite(place, daemon, *stack.enter_context(new_neighbor(place)))
            return found[user, mechanism]

        yield find
        finish_all(found.values())


def finish_all(sites: Iterable[Site]) -> None:
    """Stop daemons, all at the same time."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda site: site.daemon.finish(), sites))
