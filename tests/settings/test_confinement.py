"""Settings of confinement: what is accepted, and what is said of a wrong one."""

import os
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.execution.network.rules import NetworkRule
from runtimed.execution.policy import Gateway, GitPolicy, Mount, SandboxPolicy, Secret
from runtimed.settings import Settings, load

SHELL = '[profiles.x]\nbackend = "shell"\n'
SANDBOX = SHELL + "[profiles.x.sandbox]\n"
SECRET = '[secrets]\nkey = { env = "KEY" }\n'
GATEWAY = '[gateways.openai]\nupstream = "https://api.example.org/v1"\nallow = ["POST /responses"]\n'
WHOLE = """
[sandbox]
mode = "required"
network = "none"
readonly = ["/opt/tools"]
uids = "200000-200099"

[profiles.x]
backend = "shell"
env = { TOKEN = "secret:github-token", URL = "gateway:openai", KEY = "gateway-key:openai", TIME = "time:12:00" }

[profiles.x.sandbox]
network = ["api.example.org:443", "*.example.org:443"]
writable = ["/srv/cache"]

[profiles.y]
backend = "shell"

[secrets]
github-token = { file = "/etc/runtimed/github.token" }
openai = { env = "OPENAI_API_KEY" }

[gateways.openai]
upstream = "https://api.example.org/v1"
headers = { Authorization = "Bearer secret:openai" }
allow = ["POST /responses", "GET /models"]

[mounts]
docs = { path = "/srv/docs" }
cache = { path = "/srv/cache", writable = true }

[network_policies]
models = ["api.example.org:443"]

[shell_policies]
tests = { allow = ["python3", "/usr/bin/git"] }

[git_policies]
ours = { remotes = ["https://git.example.org/team/*"], push = true }
"""


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "config.toml"
    file.write_text(text)
    return load({}, str(file))


def test_a_profile_replaces_the_sandbox_key_by_key(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)

    profiles = settings.profile_table()
    general = SandboxPolicy("required", "none", (Path("/opt/tools"),))
    assert settings.sandbox_policy() == profiles["y"].sandbox == general
    assert profiles["x"].sandbox == SandboxPolicy(
        mode="required",
        network=(NetworkRule("api.example.org", 443), NetworkRule("*.example.org", 443)),
        readonly=(Path("/opt/tools"),),
        writable=(Path("/srv/cache"),),
    )
    assert settings.worker_uids() == range(200_000, 200_100)


def test_an_ordinary_user_gives_its_home_and_root_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = 'home = "user"\n'
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert loaded(tmp_path, "[sandbox]\n" + home).sandbox_policy().home == "user"

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigurationError, match=r"^sandbox\.home: expected worker"):
        loaded(tmp_path, "[sandbox]\n" + home)
    with pytest.raises(ConfigurationError, match=r'profiles\."x"\.sandbox\.home: expected worker'):
        loaded(tmp_path, SANDBOX + home)
    assert loaded(tmp_path, SANDBOX + home + 'mode = "off"\n').profile_table()["x"].sandbox.home == "user"


def test_without_a_sandbox_the_programs_are_confined_as_far_as_the_host_can(tmp_path: Path) -> None:
    settings = loaded(tmp_path, SHELL)

    assert settings.profile_table()["x"].sandbox == SandboxPolicy(mode="best", network="public", home="worker")
    assert settings.worker_uids() == range(100_000, 165_536)


def test_names_mean_what_the_tables_of_the_host_say(tmp_path: Path) -> None:
    resources = loaded(tmp_path, WHOLE).host_resources()

    assert resources.secrets == {
        "github-token": Secret(file=Path("/etc/runtimed/github.token")),
        "openai": Secret(env="OPENAI_API_KEY"),
    }
    assert resources.gateways == {
        "openai": Gateway(
            "https://api.example.org/v1",
            {"Authorization": "Bearer secret:openai"},
            ("POST /responses", "GET /models"),
        )
    }
    assert resources.mounts == {"docs": Mount(Path("/srv/docs")), "cache": Mount(Path("/srv/cache"), writable=True)}
    assert resources.network_policies == {"models": (NetworkRule("api.example.org", 443),)}
    assert resources.shell_policies == {"tests": ("python3", "/usr/bin/git")}
    assert resources.git_policies == {"ours": GitPolicy(("https://git.example.org/team/*",), push=True)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sandbox = 1\n", "sandbox: expected a table"),
        ('[sandbox]\nmood = "best"\n', "sandbox.mood: no such key; did you mean mode?"),
        ("[sandbox]\nsurprise = 1\n", "sandbox.surprise: no such key; expected one of mode, network, readonly"),
        ('[sandbox]\nmode = "strict"\n', "sandbox.mode: expected one of required, best, off"),
        ('[sandbox]\nhome = "mine"\n', "sandbox.home: expected one of worker, user"),
        ('[sandbox]\nnetwork = "lan"\n', "sandbox.network: expected one of none, public, host, or a list"),
        ("[sandbox]\nnetwork = []\n", "sandbox.network: expected a list of rules that is not empty"),
        ("[sandbox]\nnetwork = [443]\n", "sandbox.network[0]: expected a string, got a number"),
        ('[sandbox]\nnetwork = ["x.example.org:443", "y"]\n', 'sandbox.network[1]: expected "HOST:PORT", where HOST'),
        ('[network_policies]\na = ["x"]\n', 'network_policies.a[0]: expected "HOST:PORT", where HOST'),
        ('[sandbox]\nreadonly = "/opt"\n', "sandbox.readonly: expected an array"),
        ('[sandbox]\nreadonly = ["opt"]\n', "sandbox.readonly[0]: expected an absolute path"),
        ('[sandbox]\nwritable = ["/srv", "~/x"]\n', "sandbox.writable[1]: expected an absolute path"),
        ('[sandbox]\nwritable = ["/"]\n', "sandbox.writable: expected a path other than /"),
        ('[sandbox]\nwritable = ["/srv/.."]\n', "sandbox.writable: expected a path other than /"),
        ('store = "fs:/srv/rt"\n[sandbox]\nwritable = ["/srv/rt/workers"]\n', "apart from the daemon's own /srv/rt"),
        ('store = "fs:/srv/rt"\n[sandbox]\nwritable = ["/srv"]\n', "sandbox.writable: /srv: expected a path apart"),
        ('store = "fs:/srv/rt"\n[sandbox]\nreadonly = ["/srv/rt"]\n', "sandbox.readonly: /srv/rt: expected a path"),
        (
            'token_file = "/srv/t"\n[mounts]\na = { path = "/srv/t" }\n',
            "mounts.a.path: /srv/t: expected a path apart",
        ),
        ('[sandbox]\nuids = "0-100"\n', "sandbox.uids: expected a range of user ids from 1 to 4294967294"),
        ('[sandbox]\nuids = "200-100"\n', "sandbox.uids: expected a range"),
        ("[sandbox]\nuids = 100\n", "sandbox.uids: expected a range"),
        (SHELL + "sandbox = true\n", 'profiles."x".sandbox: expected a table'),
        (SANDBOX + 'uids = "1-2"\n', 'profiles."x".sandbox.uids: expected in [sandbox] only'),
        (SANDBOX + "writeable = []\n", 'profiles."x".sandbox.writeable: no such key; did you mean writable?'),
        (SANDBOX + 'mode = "on"\n', 'profiles."x".sandbox.mode: expected one of required, best, off'),
        (SANDBOX + 'writable = ["/"]\n', 'profiles."x".sandbox.writable: expected a path other than /'),
        (
            SHELL + 'env = { A = "secret:nope" }\n',
            "profiles.\"x\".env.A: there is no secret 'nope'; expected one of none",
        ),
        (SHELL + 'env = { A = "gateway:nope" }\n' + SECRET + GATEWAY, "no gateway 'nope'; expected one of openai"),
        (SHELL + 'env = { A = "${gateway:nope}/v1" }\n', "env.A: there is no gateway 'nope'; expected one of none"),
        (SHELL + 'env = { A = "gateway-key:" }\n', "profiles.\"x\".env.A: there is no gateway-key ''"),
        ("secrets = 1\n", "secrets: expected a table"),
        ("[secrets]\nkey = 1\n", "secrets.key: expected a table"),
        ('[secrets]\n"a/b" = { env = "A" }\n', "secrets.a/b: expected a name of 1 to 64 characters"),
        ("[secrets]\nkey = {}\n", 'secrets.key: expected either file = "/PATH" or env = "NAME"'),
        ('[secrets]\nkey = { env = "A", file = "/a" }\n', "secrets.key: expected either file"),
        ('[secrets]\nkey = { env = "A=B" }\n', "secrets.key.env: expected the name of a variable"),
        ('[secrets]\nkey = { env = "RUNTIMED_TOKEN" }\n', "secrets.key.env: RUNTIMED_TOKEN is for clients"),
        ('[secrets]\nkey = { file = "a" }\n', "secrets.key.file: expected an absolute path"),
        ('[secrets]\nkey = { value = "a" }\n', "secrets.key.value: no such key; expected one of file, env"),
        ("[gateways.a]\n", "gateways.a.upstream: required, but missing"),
        (
            '[gateways.a]\nupstream = "https://x.example.org"\n',
            'gateways.a.allow: expected at least one "METHOD /PATH"',
        ),
        ('[gateways.a]\nupstream = "ftp://x"\n', "gateways.a.upstream: expected an http:// or https:// URL"),
        ('[gateways.a]\nupstream = "https://"\n', "gateways.a.upstream: expected an http:// or https:// URL"),
        ('[gateways.a]\nupstream = "https://x:0"\n', "gateways.a.upstream: expected an http:// or https:// URL"),
        (GATEWAY + 'headers = { "A b" = "1" }\n', "gateways.openai.headers: expected names of HTTP headers"),
        (GATEWAY + 'headers = { A = "a\\nb" }\n', "gateways.openai.headers.A: expected printable characters"),
        (GATEWAY + 'headers = { A = "secret:nope" }\n', "gateways.openai.headers.A: there is no secret 'nope'"),
        (
            GATEWAY + 'headers = { A = "secret:key secret:key" }\n' + SECRET,
            "headers.A: expected printable characters",
        ),
        (GATEWAY + "max_requests = 0\n", "gateways.openai.max_requests: expected a number above 0"),
        (GATEWAY + "silence_timeout_s = -1\n", "gateways.openai.silence_timeout_s: expected a number"),
        (GATEWAY.replace("POST /", "post "), 'gateways.openai.allow[0]: expected "METHOD /PATH"'),
        (GATEWAY.replace("POST", "TRACE"), "gateways.openai.allow: 'TRACE /responses': expected METHOD PATH"),
        (GATEWAY.replace("/responses", "/a*b*"), "gateways.openai.allow: 'POST /a*b*': expected METHOD PATH"),
        (GATEWAY.replace("/responses", "/a/../b"), "gateways.openai.allow: 'POST /a/../b': expected METHOD PATH"),
        (GATEWAY.replace("/v1", "/a//b"), "gateways.openai.upstream: 'https://api.example.org/a//b': expected"),
        (GATEWAY + 'headers = { Host = "a" }\n', "gateways.openai.headers.Host: the gateway sets this header itself"),
        (GATEWAY + 'headers = { A = "1", a = "2" }\n', "gateways.openai.headers.A: expected each header once"),
        ("[mounts]\na = {}\n", "mounts.a.path: required, but missing"),
        ('[mounts]\na = { path = "a" }\n', "mounts.a.path: expected an absolute path"),
        ('[mounts]\na = { path = "/", writable = true }\n', "mounts.a.path: expected a path other than /"),
        ('[mounts]\na = { path = "/a", writable = 1 }\n', "mounts.a.writable: expected a boolean"),
        ('[network_policies]\na = "public"\n', "network_policies.a: expected a list of rules"),
        ("[shell_policies]\na = {}\n", "shell_policies.a.allow: required, but missing"),
        ("[shell_policies]\na = { allow = [] }\n", "shell_policies.a.allow: expected at least one program"),
        (
            '[shell_policies]\na = { allow = ["bin/x"] }\n',
            "shell_policies.a.allow[0]: expected the name of a program",
        ),
        ("[git_policies]\na = { remotes = [] }\n", "git_policies.a.remotes: expected at least one URL"),
        ('[git_policies]\na = { remotes = ["git@h:x"] }\n', "git_policies.a.remotes[0]: expected an http:// or"),
        ('[git_policies]\na = { remotes = ["https://h/*/x"] }\n', "git_policies.a.remotes[0]: expected a * only at"),
        (
            '[git_policies]\na = { remotes = ["https://h"] }\n',
            "git_policies.a.remotes: 'https://h': expected",
        ),
        (
            '[git_policies.a]\nremotes = ["https://h/*"]\nheaders = { Host = "a" }\n',
            "git_policies.a.headers.Host: the gateway sets this header itself",
        ),
    ],
)
def test_a_wrong_key_is_named_with_what_is_accepted(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        loaded(tmp_path, text)

    assert named in refusal.value.message
    assert "\n" not in refusal.value.message


def test_a_password_in_the_url_of_a_gateway_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gateways\.a\.upstream: expected .* without user") as refusal:
        loaded(tmp_path, '[gateways.a]\nupstream = "https://me:hunter2@x.example.org"\nallow = ["GET /"]\n')

    assert "hunter2" not in refusal.value.message


def test_a_link_to_the_store_cannot_be_made_writable(tmp_path: Path) -> None:
    (tmp_path / "rt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "rt")

    with pytest.raises(ConfigurationError, match=r"sandbox\.writable"):
        loaded(tmp_path, f'store = "fs:{tmp_path}/rt"\n[sandbox]\nwritable = ["{tmp_path}/link/workers"]\n')
