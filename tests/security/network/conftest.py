"""Daemons on a host with a network, and what their Workers may reach of it."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests import programs
from tests.acceptance.daemon.conftest import DEADLINE_S
from tests.gateways.remotes import Remotes
from tests.programs import RUNTIMECTL
from tests.security.conftest import PYTHON, Mechanism, Site, User, finish_all, mode_of, new_daemon, new_place, require
from tests.security.network.internet import WEB, Internet, new_internet
from tests.security.network.upstream import PORT as UPSTREAM_PORT
from tests.security.network.upstream import Upstream

share_sites = pytest.mark.xdist_group("online")
"""Has one process run all tests that share daemons on the Internet of tests."""

GIT_PORT = 9080
LISTED = (
    "web.test:80",
    "*.wild.test:80",
    "changing.test:80",
    "loopback.test:8080",
    "metadata.test:80",
    "index.test:443",
    "inside.test:80",
    "10.1.2.3:80",
)
"""The rules of the profiles `listed` and `listed-process`. A private address is written out."""

CLOSED = "closed"
NETWORKS: Mapping[str, str] = {
    CLOSED: '"none"',
    "public": '"public"',
    "host": '"host"',
    "listed": json.dumps(LISTED),
    "listed-process": json.dumps(LISTED),
}
"""The networks of the profiles, by their names."""

SHELL = """
[profiles."builtin:{name}"]
backend = "shell"
capabilities = ["shell"]
"""
PROCESS = """
[profiles."builtin:{name}"]
backend = "process"
command = ["{python}", "{shared}/process.py"]
"""
SANDBOX = """
[profiles."builtin:{name}".sandbox]
network = {network}
"""

REAL_KEY = "sk-real-0123456789abcdef"
GIT_PASSWORD = "dXNlcjpyZWFsLXBhc3N3b3Jk"
GATEWAYS = """
[profiles."builtin:keyed"]
backend = "shell"
capabilities = ["shell"]
env = {{ {variables} }}

[profiles."builtin:keyed".sandbox]
network = "none"

[secrets]
models = {{ file = "{home}/models.key" }}
git = {{ file = "{home}/git.key" }}

[gateways.models]
upstream = "http://{web}:{port}/v1"
headers = {{ Authorization = "Bearer secret:models" }}
allow = [
    "POST /answers", "GET /stream", "POST /received", "GET /errors/*", "GET /echo", "PUT /files/*", "GET /files/*"
]

[gateways.narrow]
upstream = "http://{web}:{port}/v1"
headers = {{ Authorization = "Bearer secret:models" }}
allow = ["POST /answers", "GET /silent", "GET /files/large"]
silence_timeout_s = 3
max_request_bytes = 1000
max_response_bytes = 1000

[gateways.lost]
upstream = "http://{web}:1"
headers = {{ Authorization = "Bearer secret:models" }}
allow = ["GET /any"]

[network_policies]
narrow = ["web.test:80", "other.test:80"]

[git_policies]
fetched = {{ remotes = ["http://{web}:{git_port}/fetched/*"] }}

[git_policies.pushed]
remotes = ["http://{web}:{git_port}/pushed/*"]
push = true
headers = {{ Authorization = "Basic secret:git" }}
"""
VARIABLES = ", ".join(
    f'{name.upper()}_URL = "gateway:{name}", {name.upper()}_KEY = "gateway-key:{name}"'
    for name in ("models", "narrow", "lost")
)


@dataclass
class OnlineSite(Site):
    """A daemon on the host of an Internet.

    Attributes:
        internet: The Internet.
    """

    internet: Internet

    def new(self, profile: str, **declared: str) -> str:
        """Return a new Worker of a profile of this module, of a bundle that declares things by their references."""
        request = {"config_bundle": self.bundle(profile, **declared)} if declared else {}
        return self.create(profile, **request)

    def of(self, profile: str) -> str:
        """Return a Worker of a profile, the same one each time."""
        if profile not in self.workers:
            self.workers[profile] = self.new(profile)
        return self.workers[profile]

    def attempt(
        self, profile: str, attempts: Mapping[str, Sequence[str]], worker_id: str | None = None
    ) -> dict[str, str]:
        """Return what each attempt of `programs/network.py` leads to."""
        way = "process" if profile.endswith("process") else "shell"
        command = (PYTHON, str(self.place.shared / "network.py"), json.dumps(attempts))
        output = self.run(way, *command, worker_id=worker_id or self.of(profile))
        found = re.search(r"^PROBED (.*)$", output, re.MULTILINE)
        assert found, output
        outcomes: dict[str, str] = json.loads(found[1])
        return outcomes

    def refusals(self, worker_id: str) -> list[dict[str, Any]]:
        """Return the items that say which connections of a Worker were refused."""
        logged = [one["payload"] for one in self.daemon.log(worker_id)]
        items = [payload["data"]["item"] for payload in logged if payload["event"] == "system_item"]
        return [item for item in items if item["kind"] == "network_refused"]

    def ctl(self, *arguments: str) -> str:
        """Return the output of runtimectl."""
        options = ("--url", self.daemon.url, "--token-file", str(self.place.store / "token"))
        done = programs.run([*RUNTIMECTL, *arguments, *options], self.daemon.environment, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reach(self, profile: str, way: str, destinations: Sequence[str]) -> dict[str, str]:
        """Return what one way to each destination leads to."""
        return self.attempt(profile, {destination: (way, destination) for destination in destinations})


@contextmanager
def new_online_site(internet: Internet, user: User, mechanism: Mechanism, more: str = "") -> Iterator[OnlineSite]:
    """Start a daemon on the host of an Internet.

    Args:
        internet: The Internet.
        user: Who it runs as.
        mechanism: The only one that it finds.
        more: What else its configuration has.
    """
    absent = () if mechanism == "bubblewrap" else ("bwrap", "unshare")
    with new_place(user, absent) as place:
        tables = "".join(
            (PROCESS if name.endswith("process") else SHELL).format(name=name, python=PYTHON, shared=place.shared)
            + SANDBOX.format(name=name, network=network)
            for name, network in NETWORKS.items()
        )
        for name, value in (("models.key", REAL_KEY), ("git.key", GIT_PASSWORD)):
            (place.home / name).touch(mode=0o600)
            place.give(place.home / name).write_text(value)
        ports = {"web": WEB, "port": UPSTREAM_PORT, "git_port": GIT_PORT}
        tables += GATEWAYS.format(home=place.home, variables=VARIABLES, **ports)
        port = internet.open_door()
        mode, tables = mode_of(user, mechanism), tables + more
        with new_daemon(place, mode, before=internet.wrapper, more=tables, port=port) as daemon:
            yield OnlineSite(place, daemon, internet)


FindOnline = Callable[[User, Mechanism], OnlineSite]


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    """An Internet with names, and addresses of all kinds."""
    needed = ("ip", "nsenter", "unshare")
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        pytest.skip("only root can make networks, by iproute2 and util-linux")
    with new_internet(tmp_path_factory.mktemp("internet")) as made:
        yield made


@pytest.fixture(scope="session")
def find_online(internet: Internet) -> Iterator[FindOnline]:
    """Return a function that starts a daemon for a mechanism and a user, the same one each time.

    It skips the test if this host does not have the mechanism.
    """
    with ExitStack() as stack:
        found: dict[tuple[User, Mechanism], OnlineSite] = {}

        def find(user: User, mechanism: Mechanism) -> OnlineSite:
            require(mechanism, user)
            if (user, mechanism) not in found:
                found[user, mechanism] = stack.enter_context(new_online_site(internet, user, mechanism))
            return found[user, mechanism]

        yield find
        finish_all(found.values())


@pytest.fixture(scope="session")
def upstream(internet: Internet) -> Upstream:
    """The service behind the gateways."""
    made = Upstream()
    internet.serve(made.answer, internet.there.listen(UPSTREAM_PORT))
    return made


@pytest.fixture(scope="session")
def remotes(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Remotes:
    """A Git server with the repositories `fetched/app.git`, `pushed/app.git` and `other/app.git`.

    It asks for no password, so that the ones it gets can be looked at.
    """
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    made = Remotes(tmp_path_factory.mktemp("remotes"), f"http://{WEB}:{GIT_PORT}")
    internet.run(made.add("fetched", "pushed", "other"))
    internet.serve(made.answer, internet.there.listen(GIT_PORT))
    return made
