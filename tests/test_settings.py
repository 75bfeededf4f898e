"""Settings: who wins, and what is said of a wrong one."""

from pathlib import Path
from typing import Literal

import attrs
import pytest

from runtimed.errors import ConfigurationError
from runtimed.settings import Settings, load, unknown_variables
from runtimed.store.factories import find_store
from runtimed.store.sqlite.factory import FsSettings

STORE_RULE = "store: expected memory or fs:PATH, with ?sync=normal, ?create=no or ?sync=normal&create=no"

PROFILE = '[profiles."builtin:coder"]\nbackend = "shell"\n'
WORKSPACE = '[workspaces."ci:repo"]\n'


@pytest.fixture
def config(user_folders: Path) -> Path:
    """The user's own configuration file."""
    folder = user_folders / "config" / "runtimed"
    folder.mkdir()
    return folder / "config.toml"


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load({}).max_event_batch_items == 256
    config.write_text("max_event_batch_items = 1\n")
    assert load({}).max_event_batch_items == 1
    monkeypatch.setenv("RUNTIMED_MAX_EVENT_BATCH_ITEMS", "2")
    assert load({}).max_event_batch_items == 2
    assert load({"max_event_batch_items": 3}).max_event_batch_items == 3


def test_a_switch_in_the_environment_is_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({}).http_quick_path is True
    monkeypatch.setenv("RUNTIMED_HTTP_QUICK_PATH", "false")
    assert load({}).http_quick_path is False
    assert load({"http_quick_path": True}).http_quick_path is True
    monkeypatch.setenv("RUNTIMED_HTTP_QUICK_PATH", "off")
    with pytest.raises(ConfigurationError, match="http_quick_path: expected true or false"):
        load({})


def test_a_list_in_the_environment_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIMED_LISTEN", "127.0.0.1:1,unix:/tmp/x")
    assert load({}).listen == ("127.0.0.1:1", "unix:/tmp/x")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load({}, str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("surprise = 1\n", "config.toml: surprise: no such setting"),
        ("profile = 1\n", "config.toml: profile: no such setting; did you mean profiles?"),
        ("[profile.x]\n", "config.toml: profile: no such setting; did you mean profiles?"),
        ("max_body_bytes = 2.5\n", "max_body_bytes: expected a whole number"),
        ("max_body_bytes = true\n", "max_body_bytes: expected a whole number"),
        ("max_body_bytes = 0\n", "max_body_bytes: expected a number above 0"),
        ('heartbeat_s = "soon"\n', "heartbeat_s: expected a number"),
        ('max_workers = "5"\n', "config.toml: max_workers: expected a whole number, without quotes"),
        ('max-workers = "5"\n', "config.toml: max-workers: expected a whole number, without quotes"),
        ('heartbeat_s = "2.5"\n', "config.toml: heartbeat_s: expected a number, without quotes"),
        ('listen = "127.0.0.1:1,127.0.0.1:2"\n', "config.toml: listen: expected a list of texts, in brackets"),
        ("heartbeat_s = nan\n", "heartbeat_s: expected a number"),
        ("heartbeat_s = inf\n", "heartbeat_s: expected a number"),
        ("max_body_bytes = 99999999999999999999\n", "max_body_bytes: expected a whole number"),
        ("listen = 5\n", "listen: expected a list of texts"),
        ("profiles = 5\n", "profiles: expected a table"),
        ('allow_host = ["http://foo/"]\n', "allow_host: 'http://foo/': expected a host name"),
        ('default_profile = "builtin:nope"\n', "default_profile: there is no profile 'builtin:nope'"),
        ("store = 'fs:\xff'\n", "config.toml: expected TOML in UTF-8"),
        ('http_quick_path = "false"\n', "config.toml: http_quick_path: expected true or false, without quotes"),
        ("http_quick_path = 0\n", "http_quick_path: expected true or false"),
        ('log_format = "xml"\n', "log_format: expected one of auto, text, json"),
        ("store = 3\n", "store: expected text"),
        ('store = "sqlite"\n', STORE_RULE),
        ('store = "fs:"\n', STORE_RULE),
        ('store = "fs:/x?sync=off"\n', STORE_RULE),
        ('store = "fs:/x?sync=normal&a=b"\n', STORE_RULE),
        ('store = "fs:?sync=normal"\n', STORE_RULE),
        ('store = "memory?sync=normal"\n', STORE_RULE),
        ('store = "fs:/x?create=yes"\n', STORE_RULE),
        ('store = "fs:/x?create=no&create=no"\n', STORE_RULE),
        ('store = "fs:/x?"\n', STORE_RULE),
        ('runtime_id = "../x"\n', "runtime_id: expected"),
        ("listen = []\n", "listen: expected"),
        ('listen_metrics = "9464"\n', "listen_metrics: '9464': expected HOST:PORT, :PORT or unix:PATH"),
        ('token = "abc"\n', "token: expected in RUNTIMED_TOKEN"),
        ("not toml\n", "expected"),
        ('[profiles.x]\nbackend = "magic"\n', 'profiles."x".backend: expected one of'),
        ("[profiles.x]\n", 'profiles."x".backend: required'),
        ("[profiles]\nx = 1\n", 'profiles."x": expected a table'),
        ('[profiles."builtin:"]\n', 'profiles."builtin:": expected builtin:NAME or NAME'),
        ('[profiles." "]\n', 'profiles." ": expected builtin:NAME or NAME'),
        (PROFILE + "surprise = 1\n", 'profiles."builtin:coder".surprise: unknown field'),
        (PROFILE + 'command = "ls -l"\n', 'profiles."builtin:coder".command: expected an array'),
        (PROFILE + "stop_grace_s = nan\n", 'profiles."builtin:coder".stop_grace_s: expected a number'),
        (PROFILE + "stop_grace_s = -1\n", 'profiles."builtin:coder".stop_grace_s: expected a number'),
        (PROFILE + "max_processes = -1\n", 'profiles."builtin:coder".max_processes: expected a whole number'),
        (PROFILE + "max_processes = 1.5\n", 'profiles."builtin:coder".max_processes: expected a whole number'),
        (PROFILE + "max_processes = 2\n", 'coder".max_processes: expected 0 for no limit, or at least 3'),
        (PROFILE + "max_folder_bytes = 1000\n", "max_folder_bytes: expected 0 for no limit, or at least 1048576"),
        (PROFILE + 'max_folder_bytes = "1G"\n', 'profiles."builtin:coder".max_folder_bytes: expected a whole number'),
        (
            PROFILE + "max_memory_bytes = 10\n",
            'coder".max_memory_bytes: expected 0 for no limit, or at least 1048576',
        ),
        ('[profiles.x]\nbackend = "process"\n', 'profiles."x".command: expected an argv, the program first'),
        (
            '[profiles.x]\nbackend = "process"\ncommand = [""]\n',
            'profiles."x".command: expected an argv, the program first',
        ),
        (PROFILE + 'command = ["sh", "a\\u0000"]\n', 'coder".command[1]: expected a string without NUL'),
        (PROFILE + 'env = { "A=B" = "1" }\n', "env: expected names of variables, got 'A=B'"),
        (PROFILE + 'env = { "" = "1" }\n', "env: expected names of variables, got ''"),
        (PROFILE + 'env = { A = "\\u0000" }\n', 'coder".env.A: expected a string without NUL'),
        (PROFILE + 'workspaces = { repo = "here" }\n', 'workspaces."repo": expected an absolute path'),
        (PROFILE + 'workspaces = { repo = "/a\\u0000" }\n', 'workspaces."repo": expected an absolute path'),
        (PROFILE + 'env_pass = ["A=B"]\n', 'profiles."builtin:coder".env_pass[0]: expected the name of a variable'),
        (PROFILE + 'env_pass = [""]\n', 'profiles."builtin:coder".env_pass[0]: expected the name of a variable'),
        (PROFILE + 'env_pass = "PATH"\n', 'profiles."builtin:coder".env_pass: expected an array'),
        (
            PROFILE + 'env_pass = ["A", "RUNTIMED_TOKEN"]\n',
            "env_pass[1]: RUNTIMED_TOKEN is for clients, not for Workers",
        ),
        (PROFILE + "start_timeout_s = 0\n", 'profiles."builtin:coder".start_timeout_s: expected a number above 0'),
        (PROFILE + "quiet_alert_s = -1\n", 'profiles."builtin:coder".quiet_alert_s: expected a number'),
        (PROFILE + "max_silence_s = true\n", 'profiles."builtin:coder".max_silence_s: expected a number'),
        (PROFILE + 'restart = "sometimes"\n', 'profiles."builtin:coder".restart: expected one of never'),
        (PROFILE + "env = { A = 1 }\n", 'profiles."builtin:coder".env.A: expected a string'),
        (PROFILE + 'offers = ["files"]\n', 'profiles."builtin:coder".offers[0]: expected one of'),
        (PROFILE + 'offers = "read"\n', 'profiles."builtin:coder".offers: expected an array'),
        (
            PROFILE + "session_config = { mode = 1 }\n",
            'profiles."builtin:coder".session_config.mode: expected a string',
        ),
        (PROFILE + 'session_config = { " " = "x" }\n', 'profiles."builtin:coder".session_config: expected names'),
        ('workspace_roots = ["here"]\n', "workspace_roots: expected absolute paths, got 'here'"),
        ('workspace_roots = "/srv"\n', "config.toml: workspace_roots: expected a list of texts, in brackets"),
        ("[workspaces]\nx = 1\n", "workspaces.x: expected a table, with a path in it"),
        ('[workspaces."dir:x"]\npath = "/x"\n', "workspaces.dir:x: expected a printable reference"),
        (WORKSPACE, "workspaces.ci:repo.path: required, but missing"),
        (WORKSPACE + 'path = "here"\n', "workspaces.ci:repo.path: expected an absolute path"),
        (WORKSPACE + 'path = "/x"\nmode = "move"\n', "workspaces.ci:repo.mode: expected one of shared, worktree"),
        (WORKSPACE + 'path = "/x"\nwriteable = true\n', "workspaces.ci:repo.writeable: unknown field"),
        (WORKSPACE + 'path = "/x"\nwritable = "no"\n', "workspaces.ci:repo.writable: expected a boolean"),
        (WORKSPACE + 'path = "/x"\nref = "main"\n', "workspaces.ci:repo.ref: only a worktree or a clone"),
        (
            WORKSPACE + 'path = "/x"\nmode = "clone"\nref = "--upload-pack=x"\n',
            "workspaces.ci:repo.ref: expected a branch, a tag or a commit",
        ),
        (PROFILE + "mcp_servers = [1]\n", 'coder".mcp_servers[0]: expected an object'),
        (PROFILE + 'mcp_servers = [{ url = "http://x" }]\n', 'coder".mcp_servers[0].name: required, but missing'),
        (PROFILE + 'mcp_servers = [{ name = " ", url = "http://x" }]\n', "mcp_servers[0].name: expected a name"),
        (
            PROFILE + 'mcp_servers = [{ name = "a", url = "http://x" }, { name = "a", url = "http://y" }]\n',
            "mcp_servers[1].name: expected a name that no other server has, got 'a'",
        ),
        (PROFILE + 'mcp_servers = [{ name = "a" }]\n', "mcp_servers[0]: expected either a command"),
        (
            PROFILE + 'mcp_servers = [{ name = "a", command = ["x"], url = "http://x" }]\n',
            "mcp_servers[0]: expected either a command",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", url = "ftp://x" }]\n',
            "mcp_servers[0].url: expected one of http://",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", url = "http://x", type = "ws" }]\n',
            "mcp_servers[0].type: expected one of http, sse",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", url = "http://x", env = { A = "1" } }]\n',
            "mcp_servers[0].env: expected only with a command",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", command = ["x"], headers = { A = "1" } }]\n',
            "mcp_servers[0].headers: expected only with a url",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", command = ["x"], env = { "A=B" = "1" } }]\n',
            "mcp_servers[0].env: expected names of variables, without = and NUL",
        ),
        (
            PROFILE + 'mcp_servers = [{ name = "a", url = "http://x", headers = { "A b" = "1" } }]\n',
            "mcp_servers[0].headers: expected names of HTTP headers",
        ),
        (PROFILE + "mcp_from_clients = 1\n", 'coder".mcp_from_clients: expected a boolean'),
        (
            '[profiles.x]\nbackend = "shell"\nmcp_from_clients = true\n',
            'profiles."x".mcp_from_clients: expected false for a backend other than acp',
        ),
        (PROFILE + "warm = 65\n", 'coder".warm: expected 0 to 64'),
        (PROFILE + "warm = -1\n", 'coder".warm: expected a whole number'),
        ('[profiles.x]\nbackend = "shell"\nwarm = 1\n', 'profiles."x".warm: expected 0 to 64, and 0 for a backend'),
        (PROFILE + "env = 1\n", 'profiles."builtin:coder".env: expected a table'),
    ],
)
def test_what_is_wrong_in_the_file_is_named_in_one_line(config: Path, text: str, named: str) -> None:
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as refusal:
        load({})
    assert named.lower() in refusal.value.message.lower()
    assert "\n" not in refusal.value.message


def test_a_profile_is_read_with_its_defaults(config: Path) -> None:
    config.write_text(PROFILE + 'capabilities = ["read"]\nenv = { A = "b" }\nstop_grace_s = 2\n')
    profile = load({}).profile_table()["builtin:coder"]
    assert (profile.backend, profile.capabilities, profile.env) == ("shell", ("read",), {"A": "b"})
    assert (profile.stop_grace_s, profile.permissions) == (2.0, "ask")


def test_a_profile_says_how_its_programs_start_and_what_follows_their_end(config: Path) -> None:
    config.write_text(PROFILE + 'env_pass = ["A"]\nstart_timeout_s = 5\nrestart = "always"\nmax_silence_s = 9\n')
    profile = load({}).profile_table()["builtin:coder"]
    assert (profile.env_pass, profile.start_timeout_s) == (("A",), 5.0)
    assert (profile.restart, profile.quiet_alert_s, profile.max_silence_s) == ("always", 60.0, 9.0)


def test_a_profile_may_have_no_limits_and_the_lowest_ones(config: Path) -> None:
    config.write_text(PROFILE + "max_memory_bytes = 0\nmax_processes = 0\n")
    assert load({}).profile_table()["builtin:coder"].max_processes == 0
    config.write_text(PROFILE + "max_memory_bytes = 1048576\nmax_processes = 3\n")
    assert load({}).profile_table()["builtin:coder"].max_processes == 3


@pytest.mark.parametrize("token", ["secret word of some length", "secret-of-15-ch"])
def test_a_token_with_a_space_or_of_15_characters_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("RUNTIMED_TOKEN", token)
    with pytest.raises(
        ConfigurationError, match=r"^token: expected one token of visible ASCII, 16 to 1024 char"
    ) as refusal:
        load({})
    assert "secret" not in refusal.value.message


BOUNDED = {"max_snapshot_bytes"}
NUMBERS = [field.name for field in attrs.fields(Settings) if field.type in {int, float}]


@pytest.mark.parametrize("bytes_", [65_536, 524_288])
def test_a_snapshot_may_be_bounded_from_64_to_512_kib(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIMED_MAX_SNAPSHOT_BYTES", str(bytes_))

    assert load({}).limits().max_snapshot_bytes == bytes_


@pytest.mark.parametrize("bytes_", [7, 65_535, 524_289])
def test_a_bound_of_snapshots_that_clients_cannot_rely_on_is_refused(
    bytes_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIMED_MAX_SNAPSHOT_BYTES", str(bytes_))

    with pytest.raises(ConfigurationError, match="max_snapshot_bytes: expected 65536 to 524288"):
        load({})


@pytest.mark.parametrize("field", sorted({*NUMBERS} - BOUNDED))
def test_every_number_can_be_set_in_the_environment_and_must_be_one(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RUNTIMED_{field.upper()}", "7")
    assert getattr(load({}), field) == 7
    monkeypatch.setenv(f"RUNTIMED_{field.upper()}", "seven")
    with pytest.raises(ConfigurationError, match=field):
        load({})


def test_a_configuration_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config: .*expected a TOML file"):
        load({}, str(tmp_path))


def test_without_a_home_there_is_just_no_file_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert load({}).store == "memory"


def test_a_misspelt_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIMED_STROE", "fs:/x")
    monkeypatch.setenv("RUNTIMED_CONFIG", "")
    assert unknown_variables() == ["RUNTIMED_STROE"]


def test_the_home_of_the_user_can_be_named_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load({"store": "fs:~/rt"}).store_path == Path("/home/somebody/rt")


def test_the_query_of_a_store_says_when_it_syncs_and_is_no_part_of_its_path() -> None:
    lazy, careful = load({"store": "fs:/srv/rt?sync=normal"}), load({"store": "fs:/srv/rt"})
    assert lazy.store_path == careful.store_path == Path("/srv/rt")
    chosen = [find_store(found.store).settings for found in (lazy, careful)]
    assert [(type(one), getattr(one, "sync", None)) for one in chosen] == [
        (FsSettings, "normal"),
        (FsSettings, "full"),
    ]


@pytest.mark.parametrize(
    ("query", "sync", "create"),
    [
        ("", "full", True),
        ("?create=no", "full", False),
        ("?sync=normal&create=no", "normal", False),
        ("?create=no&sync=normal", "normal", False),
    ],
)
def test_the_query_of_a_store_may_keep_it_from_being_made(
    query: str, sync: Literal["full", "normal"], create: bool
) -> None:
    loaded = load({"store": f"fs:/srv/rt{query}"})
    assert find_store(loaded.store).settings == FsSettings(Path("/srv/rt"), sync, create)
