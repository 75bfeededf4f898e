"""The pages on confinement say what the code does, and their examples are run in a daemon."""

import http.server
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.confinement import (
    bind_source,
    bubblewrap,
    confiner,
    enclosure,
    landlock,
    landlock_confinement,
    placement,
    probe,
    reach_builder,
    secrets,
    users,
)
from runtimed.execution.confinement.seccomp import RULES, Condition
from runtimed.execution.policy import SandboxPolicy, Secret
from runtimed.execution.profile import Profile
from runtimed.execution.workspaces import worktree
from runtimed.execution.workspaces.catalog import ConfiguredWorkspace
from runtimed.settings import load
from tests import programs
from tests.conftest import COVERAGE_VARIABLES
from tests.docs.conftest import Page, ReadPage
from tests.programs import RUNTIMED

GUIDE = "how-to/confine.md"
EXPLANATION = "explanation/confinement.md"
AGENTS = "how-to/agents.md"
ROOT = Path(__file__).parents[2]
KEY = "the-real-key-of-the-page"
DEADLINE_S = 60

needs_bubblewrap = pytest.mark.skipif(
    not shutil.which("bwrap") or bool(probe.find_bubblewrap(None)[0]), reason="bubblewrap cannot be used here"
)


@pytest.fixture
def guide(page: ReadPage) -> Page:
    return page(GUIDE)


def named_calls(section: Page) -> set[str]:
    """The system calls that a section names."""
    return set(re.findall(r"`([a-z0-9_]+)`", section.text))


def test_every_gap_of_landlock_is_on_the_page(page: ReadPage) -> None:
    listed = [line[2:] for line in page(EXPLANATION).section("Landlock").text.splitlines() if line.startswith("- ")]

    assert set(landlock.gaps(1)) <= set(listed)


def test_the_page_names_every_system_call_that_the_filters_refuse_or_restrict(page: ReadPage) -> None:
    named = named_calls(page(EXPLANATION).section("The filter of system calls"))
    refused = {rule.call for rule in RULES["bubblewrap"] if not rule.conditions}

    assert refused | {"unshare", "clone"} <= named
    assert named <= {rule.call for rule in RULES["bubblewrap"]} | {"perf"}


def test_the_page_says_which_sockets_the_filter_leaves(page: ReadPage) -> None:
    kinds = [rule.conditions[0] for rule in RULES["bubblewrap"] if rule.call == "socket"]

    assert Condition(0, (1, 2, 10, 16), among=False) in kinds
    assert "sockets other than Unix, IPv4, IPv6 and the routing part of netlink" in page(EXPLANATION).text


def test_the_pages_name_the_first_kernel_on_which_landlock_restricts_the_network(page: ReadPage, guide: Page) -> None:
    assert landlock_confinement.NETWORK_SINCE == 4
    assert "does not use Landlock for a network other than `host` before Linux 6.7" in page(EXPLANATION).text
    assert "Linux 6.7 or newer" in guide.section("If a Worker is refused").text


def test_the_configuration_of_the_guide_is_accepted(guide: Page, tmp_path: Path) -> None:
    requires, networks, tools, gives = guide.blocks("toml") + indented_blocks(guide)
    file = tmp_path / "config.toml"
    file.write_text(requires + tools)
    closed = load({}, str(file))
    file.write_text(gives)
    gave = load({}, str(file))
    file.write_text(networks)
    rules = load({}, str(file)).sandbox_policy().network

    assert closed.sandbox_policy() == SandboxPolicy(mode="required", network="none")
    assert closed.profile_table()["rust"].sandbox.writable == (Path("/srv/cache/cargo"),)
    assert gave.host_resources().secrets == {"models": Secret(file=Path("/etc/runtimed/models.key"))}
    assert gave.workspace_table() == {"team:website": ConfiguredWorkspace("/srv/website", "clone")}
    assert [str(rule) for rule in rules] == re.findall(r'^    "(.+)",', networks, re.MULTILINE)


def test_the_first_agent_is_confined_by_the_parts_of_its_recipe_that_the_page_shows(
    page: ReadPage,
) -> None:
    [shown] = indented_blocks(page(AGENTS))
    recipe = ROOT / "contrib" / "agents" / "claude.toml"
    profile: Profile = load({}, str(recipe)).profile_table()["builtin:claude"]

    assert is_part(tomllib.loads(shown), tomllib.loads(recipe.read_text()))
    assert (profile.sandbox.mode, profile.sandbox.network) == ("required", "none")
    assert profile.env["ANTHROPIC_API_KEY"] == "gateway-key:claude"


def is_part(part: Any, whole: Any) -> bool:
    """Whether all that one configuration says is in another."""
    if not isinstance(part, dict):
        return bool(part == whole)
    return all(name in whole and is_part(value, whole[name]) for name, value in part.items())


def indented_blocks(page: Page) -> list[str]:
    """The fenced blocks of TOML inside the steps of a list."""
    found = re.findall(r"^   ```toml\n(.*?)^   ```$", page.text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in found]


def test_the_refusals_of_the_guide_are_those_of_the_daemon(guide: Page) -> None:
    sources = (
        bind_source,
        bubblewrap,
        confiner,
        enclosure,
        landlock_confinement,
        placement,
        reach_builder,
        secrets,
        users,
        worktree,
    )
    said = "".join(map(inspect.getsource, sources))

    for row in guide.section("If a Worker is refused").rows:
        text = row.codes()[0].removesuffix(": '…'")
        assert text in said, row.cells[0]


def test_the_reasons_that_the_probe_gives_itself_are_those_of_the_daemon(guide: Page) -> None:
    own = [row.codes()[0] for row in guide.section("Get bubblewrap to work").rows if "bwrap: " not in row.cells[0]]

    assert own
    assert all(reason in inspect.getsource(probe) for reason in own)


class Host:
    """A daemon with the configuration of the guide, in folders of the test, and `runtimectl`."""

    def __init__(self, folder: Path, env: dict[str, str], config: str) -> None:
        self.env = env
        file = folder / "config.toml"
        file.write_text(config)
        command = [*RUNTIMED, "--listen", "127.0.0.1:0", "--config", str(file)]
        self._process = programs.start(command, env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"runtimed: listening on "), "the daemon does not start"

    def ctl(self, *args: str) -> str:
        return self.run("runtimectl", *args)

    def run(self, module: str, *args: str) -> str:
        """Return the output of one of our programs."""
        return programs.run([sys.executable, "-m", module, *args], self.env, timeout=DEADLINE_S).stdout

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def host(guide: Page, user_folders: Path) -> Iterator[Host]:
    """Runs the daemon with the closed network of the guide, and a key at the place of the guide's."""
    key = write_key(user_folders)
    secret = f'[secrets]\nmodels = {{ file = "{key}" }}\n'
    made = Host(user_folders, environment(user_folders), guide.blocks("toml")[0] + secret)
    yield made
    made.close()


def write_key(folder: Path) -> Path:
    key = folder / "models.key"
    key.touch(0o600)
    key.write_text(KEY)
    return key


def environment(user_folders: Path) -> dict[str, str]:
    """The variables of a daemon with folders of the test."""
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(user_folders / "home"),
        "XDG_RUNTIME_DIR": str(user_folders / "run"),
        "XDG_CONFIG_HOME": str(user_folders / "config"),
        "LANG": "C.UTF-8",
    }
    return env | COVERAGE_VARIABLES


@needs_bubblewrap
def test_a_worker_of_the_guide_reaches_neither_the_key_nor_other_folders_nor_a_network(
    guide: Page, host: Host, user_folders: Path
) -> None:
    script = guide.blocks("sh")[0].replace("/etc/runtimed/models.key", str(user_folders / "models.key"))
    chosen = ("--profile", "builtin:shell", "--capability", "shell")
    worker = host.ctl("workers", "create", *chosen, "--wait", "-o", "name").strip()

    host.ctl("workers", "input", worker, script, "--wait")

    events = [json.loads(line)["payload"] for line in host.ctl("events", "export", worker).splitlines()]
    [said] = [event["data"]["text"] for event in events if event["event"] == "text_done"]
    assert '"mechanism": "bubblewrap"' in host.ctl("workers", "get", worker, "-o", "json")
    assert said.count("No such file or directory") == 2
    assert "Network is unreachable" in said
    assert KEY not in said


@needs_bubblewrap
def test_the_list_of_profiles_is_as_the_guide_shows_it(guide: Page, host: Host) -> None:
    [block] = [found for found in guide.blocks("") if "profiles list" in found]

    listed = host.ctl("profiles", "list")

    shown = block.partition("profiles list\n")[2].replace("public", "none")
    assert [line.split() for line in listed.splitlines()] == [line.split() for line in shown.splitlines()]


class Service(http.server.BaseHTTPRequestHandler):
    """The service of the guide, which answers only to the real key."""

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == f"Bearer {KEY}"
        self.send_response(200 if is_known and self.path == "/v1/models" else 401)
        self.end_headers()
        self.wfile.write(b"the models")


@pytest.fixture
def service() -> Iterator[str]:
    """Serves in place of the service of the guide; its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def keyed_host(guide: Page, user_folders: Path, service: str) -> Iterator[Host]:
    """Runs the daemon with the key and the repository of the guide, in folders of the test."""
    website = user_folders / "website"
    author = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    for words in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "of the website")):
        website.mkdir(exist_ok=True)
        subprocess.run(["git", *words], cwd=website, check=True, env=environment(user_folders))
    [config] = [block for block in indented_blocks(guide) if "[gateways.models]" in block]
    replaced = {
        "/etc/runtimed/models.key": str(write_key(user_folders)),
        "https://api.example.org": service,
        "/srv/website": str(website),
    }
    for shown, real in replaced.items():
        assert shown in config
        config = config.replace(shown, real)
    made = Host(user_folders, environment(user_folders), config)
    yield made
    made.close()


INSIDE = """
import os, urllib.error, urllib.request
key = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
url = os.environ["OPENAI_BASE_URL"]
print(urllib.request.urlopen(urllib.request.Request(f"{url}/models", headers=key)).read().decode())
for refused in (f"{url}/files", "http://example.org:443/"):
    try:
        urllib.request.urlopen(urllib.request.Request(refused, headers=key))
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
"""


@needs_bubblewrap
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_worker_with_a_key_and_a_repository_does_what_the_guide_says(
    guide: Page, keyed_host: Host, user_folders: Path
) -> None:
    [shown] = re.findall(r"^   \$ runtimed --check-config\n.*?(?=^   ```$)", guide.text, re.MULTILINE | re.DOTALL)
    check, valid, create, name = (line.strip().removeprefix("$ ") for line in shown.splitlines())
    program, *options = shlex.split(check)
    checked = keyed_host.run(program, *options, "--config", str(user_folders / "config.toml"))
    worker = keyed_host.ctl(*shlex.split(create)[1:])
    script = f"git log --format=%s\npython3 -c {shlex.quote(INSIDE)}\nprintenv"

    keyed_host.ctl("workers", "input", worker.strip(), script, "--wait")

    [tail] = re.findall(r"^\$ runtimectl (events tail .*) \| grep network_refused$", guide.text, re.MULTILINE)
    lines = [line for line in keyed_host.ctl(*shlex.split(tail)).splitlines() if "network_refused" in line]
    exported = keyed_host.ctl("events", "export", worker.strip())
    events = [json.loads(line)["payload"] for line in exported.splitlines()]
    [said] = [event["data"]["text"] for event in events if event["event"] == "text_done"]
    [item] = [json.loads(line)["payload"]["data"]["item"] for line in lines]
    [refusal] = [block for block in guide.blocks("") if block.startswith("runtimed: ")]
    assert (checked.strip(), worker.strip()) == (valid, name)
    assert said.startswith("of the website\nthe models\n403 ")
    assert f"403 {refusal}" in said
    assert (item["host"], item["port"]) == ("example.org", 443)
    assert KEY not in exported
