"""Interface section 8: SIGHUP has the daemon read its configuration again."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until
from tests.acceptance.daemon.test_warm_agents import AGENTS, _configure, _ready
from tests.execution.acp.conftest import Roll

DONE = '"configuration reloaded"'
FAILED = '"the configuration was not reloaded: nothing has changed"'


class Configured:
    """A daemon with a configuration file that a test rewrites."""

    def __init__(self, launch: Launch, file: Path, until: Until) -> None:
        self._launch = launch
        self._until = until
        self.file = file

    def start(self, text: str, *options: str, **given: Any) -> Daemon:
        self.file.write_text(text)
        self.daemon = self._launch("--config", str(self.file), *options, **given).ready()
        return self.daemon

    def reload(self, text: str | None = None, expected: str = DONE) -> dict[str, Any]:
        """Write the file, have it read, and return the fields of what the log says of it."""
        if text is not None:
            self.file.write_text(text)
        before = self.daemon.errors.count(expected)
        self.daemon.process.send_signal(signal.SIGHUP)
        self._until(lambda: self.daemon.errors.count(expected) > before)
        lines = [line for line in self.daemon.errors.splitlines() if expected in line]
        found: dict[str, Any] = json.loads(lines[-1])
        return found


@pytest.fixture
def configured(launch: Launch, tmp_path: Path, until: Until) -> Configured:
    return Configured(launch, tmp_path / "config.toml", until)


PROGRAM = """
while IFS= read -r line; do
    case $line in
    *"end yourself"*) exit 1 ;;
    '{"type":"input",'*) echo "mark $MARK" && echo '{"event":"run_end","data":{"result":"finished"}}' ;;
    esac
done
"""


def _profile(name: str, mark: str) -> str:
    """The table of a profile whose Workers answer with a mark from its environment."""
    command = json.dumps(["sh", "-c", PROGRAM])
    return f'[profiles."builtin:{name}"]\nbackend = "process"\ncommand = {command}\nenv = {{ MARK = "{mark}" }}\n'


def _create(daemon: Daemon, name: str) -> str:
    return daemon.create(profile={"kind": "builtin", "value": f"builtin:{name}"})


def _mark(daemon: Daemon, worker_id: str) -> str:
    daemon.run(worker_id, "hello")
    return str(daemon.items(worker_id)[-1]["content"]).strip()


def test_running_workers_keep_their_profile_and_others_get_the_new_one(configured: Configured) -> None:
    daemon = configured.start(_profile("kept", "old") + _profile("gone", "old"))
    kept, lost, gone = _create(daemon, "kept"), _create(daemon, "kept"), _create(daemon, "gone")
    assert [_mark(daemon, worker_id) for worker_id in (kept, lost, gone)] == ["mark old"] * 3

    told = configured.reload(_profile("kept", "new") + _profile("added", "new"))

    assert told["changed"] == "profiles.builtin:added, profiles.builtin:gone, profiles.builtin:kept"
    assert [_mark(daemon, worker_id) for worker_id in (kept, gone)] == ["mark old"] * 2
    assert [_mark(daemon, _create(daemon, name)) for name in ("kept", "added")] == ["mark new"] * 2
    rejected = daemon.worker(_create(daemon, "gone"))["execution"]
    assert (rejected["run_state"], rejected["backend"]) == ("rejected", "unconnected")
    daemon.run(lost, "end yourself")
    assert _mark(daemon, lost) == "mark new"
    daemon.call("POST", f"/v1/workers/{gone}/stop").ok("ack")
    assert daemon.worker(gone)["status"] == "stopped"
    selectors = [one["selector"] for one in daemon.call("GET", "/v1/profiles").ok("profiles")]
    assert "builtin:added" in selectors
    assert "builtin:gone" not in selectors


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("max_workers = -1\n", "max_workers: expected a number above 0"),
        ("max_workers = ", "expected TOML in UTF-8"),
        ("max_wrkers = 3\n", "max_wrkers: no such setting; did you mean max_workers?"),
        ('log_level = "loud"\n', "log_level: expected one of debug, info, warning, error"),
        ('[profiles."builtin:kept"]\nbackend = "shall"', 'profiles."builtin:kept".backend: expected one of'),
        (None, "not found"),
    ],
)
def test_a_bad_or_missing_file_changes_nothing_and_the_log_says_why(
    configured: Configured, bad: str | None, reason: str
) -> None:
    good = _profile("kept", "old")
    daemon = configured.start(good)
    if bad is None:
        configured.file.unlink()

    told = configured.reload(None if bad is None else f"{bad}\n{_profile('other', 'new')}", FAILED)

    assert reason in told["reason"]
    assert _mark(daemon, _create(daemon, "kept")) == "mark old"
    assert daemon.errors.count(DONE) == 0
    configured.reload(_profile("kept", "newer"))
    assert _mark(daemon, _create(daemon, "kept")) == "mark newer"


def test_limits_secrets_workspaces_and_the_log_change_live_and_the_rest_is_named(
    configured: Configured, tmp_path: Path
) -> None:
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("the-value-of-the-secret")
    secret.chmod(0o600)
    daemon = configured.start('max_workers = 1\ndrain_s = 1\n[sandbox]\nmode = "off"\n')
    first = daemon.echo()
    daemon.call("POST", "/v1/workers", {}).refused(400, "invalid_request")
    profile = '[profiles."builtin:with-secret"]\nbackend = "shell"\nenv = { KEY = "secret:key" }\n'

    told = configured.reload(
        f'max_workers = 9\ndrain_s = 2\nlog_level = "debug"\nmax_bundles = 7\nmax_connections = 9\n'
        f'[sandbox]\nmode = "off"\nnetwork = "host"\n[secrets]\nkey = {{ file = "{secret}" }}\n'
        f'[workspaces."ci:repo"]\npath = "{folder}"\n{profile}'
    )

    assert told["changed"] == (
        "drain_s, log_level, max_workers, profiles.builtin:with-secret, sandbox.network, secrets.key,"
        " workspaces.ci:repo"
    )
    later = json.loads(next(line for line in daemon.errors.splitlines() if "at the next start only" in line))
    assert later["settings"] == "max_bundles, max_connections"
    worker_id = daemon.create(
        profile={"kind": "builtin", "value": "builtin:with-secret"},
        workspace_refs=[{"name": "cwd", "reference": "ci:repo"}],
    )
    daemon.run(worker_id, 'echo "$PWD ${#KEY}"')
    assert daemon.items(worker_id)[-1]["content"] == f"{folder} {len('the-value-of-the-secret')}\n"
    assert "the-value-of-the-secret" not in daemon.errors
    daemon.run(first, "hello")
    assert '"level": "debug"' in daemon.errors
    assert daemon.runtime()["worker_count"] == 2


def test_the_token_file_is_read_again_and_the_old_token_is_refused(configured: Configured, tmp_path: Path) -> None:
    file = tmp_path / "token-file"
    file.write_text("the-first-token-of-this-test")
    file.chmod(0o600)
    daemon = configured.start("", "--token-file", str(file))
    assert daemon.call("GET", "/v1/runtime", token="the-first-token-of-this-test").status == 200

    file.write_text("not a token")
    assert "token_file" in configured.reload(None, FAILED)["reason"]
    assert daemon.call("GET", "/v1/runtime", token="the-first-token-of-this-test").status == 200
    file.write_text("the-second-token-of-this-test")
    configured.reload()

    assert daemon.call("GET", "/v1/runtime", token="the-first-token-of-this-test").status == 401
    assert daemon.call("GET", "/v1/runtime", token="the-second-token-of-this-test").status == 200


def test_without_a_configuration_file_no_setting_changes(launch: Launch, until: Until) -> None:
    daemon = launch().ready()

    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "there is no configuration file" in daemon.errors)

    until(lambda: '"changed": "nothing"' in daemon.errors)
    daemon.run(daemon.echo(), "still here")


def test_warm_agents_of_a_changed_profile_are_replaced(configured: Configured, tmp_path: Path, until: Until) -> None:
    config, roll = _configure(tmp_path, mode="first"), Roll(tmp_path / AGENTS)
    daemon = configured.start(config.read_text())
    until(lambda: _ready(daemon) == {"ready": 1, "wanted": 1})
    configured.reload(f"max_workers = 100\n{config.read_text()}")
    assert len(roll.names) == 1, "the profile has not changed"

    configured.reload(_configure(tmp_path, mode="second").read_text())

    until(lambda: roll.is_gone(roll.names[0]) and len(roll.names) == 2)
    until(lambda: _ready(daemon) == {"ready": 1, "wanted": 1})
    assert [note["env"]["MODE"] for note in roll.notes] == ["first", "second"]


def test_a_token_and_a_secret_can_be_credentials_of_the_unit(launch: Launch, tmp_path: Path) -> None:
    folder, config = tmp_path / "credentials", tmp_path / "config.toml"
    folder.mkdir()
    for name in ("token", "key"):
        (folder / name).write_text(f"the-{name}-of-this-unit")
        (folder / name).chmod(0o440)  # as systemd shows a file that it has opened to the user of the unit
    folder.chmod(0o500)
    profile = '[profiles."builtin:with-secret"]\nbackend = "shell"\nenv = { KEY = "secret:key" }\n'
    config.write_text(f'[secrets]\nkey = {{ file = "{folder}/key" }}\n{profile}')
    variables = {"CREDENTIALS_DIRECTORY": str(folder), "RUNTIMED_TOKEN_FILE": str(folder / "token")}

    daemon = launch("--config", str(config), env=variables).ready()

    assert daemon.call("GET", "/v1/runtime", token="the-token-of-this-unit").status == 200
    worker_id = daemon.create(profile={"kind": "builtin", "value": "builtin:with-secret"})
    daemon.run(worker_id, 'echo "${#KEY}"; ls ' + str(folder))
    shown = daemon.items(worker_id)[-1]["content"]
    assert shown.startswith(f"{len('the-key-of-this-unit')}\n")
    assert "token" not in shown.replace(str(folder), "")
