"""Interface section 8: SIGHUP has the daemon read its configuration again."""

import json
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until
from tests.acceptance.daemon.test_tenants import listed, make
from tests.acceptance.daemon.test_warm_agents import AGENTS, _configure, _ready
from tests.certificates import Authority
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


def test_another_first_token_ends_the_feeds_of_the_one_before_and_those_of_no_other(
    configured: Configured, tmp_path: Path
) -> None:
    first, second = "the-first-token-of-this-test", "the-second-token-of-this-test"
    file = tmp_path / "token-file"
    file.write_text(first)
    file.chmod(0o600)
    daemon = configured.start("", "--token-file", str(file))
    assert daemon.token == first
    worker_id, other = daemon.echo(), make(daemon, "other", None)
    of_other = {"Authorization": f"Bearer {other}"}

    with daemon.observe(worker_id) as observer, daemon.observe(worker_id, headers=of_other) as unconcerned:
        file.write_text("not a token")
        assert "token_file" in configured.reload(None, FAILED)["reason"]
        daemon.run(worker_id, "still here")
        assert observer.up_to("run_end")
        file.write_text(second)
        configured.reload()

        observer.rest()
        daemon.call("GET", "/v1/runtime", token=first).refused(401, "unauthorized")
        daemon.token = second
        unconcerned.up_to("run_end")
        daemon.run(worker_id, "hello")
        assert unconcerned.up_to("run_end")
    assert daemon.call("GET", "/v1/runtime", token=other).status == 200


def test_files_in_use_and_those_of_the_next_start_stay_hidden_from_workers(
    configured: Configured, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    used, following, secret, later = (folder / name for name in ("used", "following", "secret", "later"))
    for file in (used, following, secret, later):
        file.write_text(f"the-text-of-the-{file.name}-file")
        file.chmod(0o600)
    (folder / "open").write_text("this is open")
    text = 'token_file = "{0}"\n[secrets]\nkey = {{ file = "{1}" }}\n[sandbox]\nreadonly = ["{2}"]\n'
    daemon = configured.start(text.format(used, secret, folder))
    if daemon.call("GET", "/v1/runtime/sandbox").ok("sandbox")["mechanism"] == "none":
        pytest.skip("nothing confines Workers on this host")

    configured.reload(text.format(following, later, folder) + '[profiles."builtin:other"]\nbackend = "shell"\n')

    worker_id = _create(daemon, "other")
    daemon.run(worker_id, f"cat {folder}/*")
    shown = str([item.get("content") for item in daemon.items(worker_id)])
    assert "this is open" in shown
    assert "the-text-of-the" not in shown
    mounts = f'[mounts.data]\npath = "{used}"\n'
    assert "mounts.data.path" in configured.reload(text.format(following, later, folder) + mounts, FAILED)["reason"]


def test_a_missing_token_file_of_the_store_is_not_made_by_a_reload(configured: Configured, tmp_path: Path) -> None:
    daemon = configured.start("", store=f"fs:{tmp_path}/store")
    file = tmp_path / "store" / "token"
    file.unlink()

    assert "token_file" in configured.reload(None, FAILED)["reason"]

    assert not file.exists()
    daemon.run(daemon.echo(), "still here")


def test_a_daemon_that_drains_reads_its_configuration_too(configured: Configured) -> None:
    profile = '[profiles."builtin:busy"]\nbackend = "shell"\n'
    daemon = configured.start(f"drain_s = 40\n{profile}")
    worker_id = _create(daemon, "busy")
    daemon.input(worker_id, "sleep 600")
    assert daemon.call("POST", "/v1/runtime/drain").ok("drain")["runs"] == 1

    told = configured.reload(f"drain_s = 40\nmax_workers = 55\n{profile}")

    assert told["changed"] == "max_workers"
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    assert daemon.ended() == 0


def test_rotated_certificates_are_served_to_new_connections_and_a_bad_file_changes_nothing(
    configured: Configured, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    daemon = configured.start("", authority=authority)
    certificate, key = authority.folder / "server.pem", authority.folder / "server.key"
    first = _served(daemon)
    with daemon.dial() as kept:
        certificate.write_text("no certificate")
        assert f"tls_cert: {certificate}" in configured.reload(None, FAILED)["reason"]
        assert _served(daemon) == first
        authority.issue("server")
        second, new_key = _der(certificate), key.read_bytes()
        key.write_bytes(authority.issue("other").key.read_bytes())
        assert f"tls_key: {key}" in configured.reload(None, FAILED)["reason"]
        assert _served(daemon) == first
        key.write_bytes(new_key)

        configured.reload()

        assert _served(daemon) == second != first
        kept.sendall(daemon.head("GET /v1/runtime HTTP/1.1"))
        assert kept.recv(12) == b"HTTP/1.1 200"


def _served(daemon: Daemon) -> bytes:
    """The certificate that a new connection gets."""
    with daemon.dial() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return found


def _der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_other_files_of_tls_are_named_as_changes_of_the_next_start(configured: Configured, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    one, other = authority.issue("one"), authority.issue("other")
    text = 'tls_cert = "{0.cert}"\ntls_key = "{0.key}"\n'
    daemon = configured.start(text.format(one))
    daemon.authority = authority
    first = _served(daemon)

    told = configured.reload(text.format(other))

    assert told["changed"] == "nothing"
    later = json.loads(next(line for line in daemon.errors.splitlines() if "at the next start only" in line))
    assert later["settings"] == "tls_cert, tls_key"
    assert _served(daemon) == first
    one.cert.unlink()
    reason = configured.reload(None, FAILED)["reason"]
    assert reason.startswith(f"tls_cert: {one.cert}: not found")
    assert "restart the daemon" in reason


def test_a_renamed_audit_log_is_opened_again_and_another_file_takes_its_place(
    configured: Configured, tmp_path: Path
) -> None:
    first, rotated, second = tmp_path / "audit", tmp_path / "audit.1", tmp_path / "other"
    daemon = configured.start(f'[audit]\nfile = "{first}"\n')
    daemon.create()
    first.rename(rotated)

    configured.reload()
    daemon.create()
    assert "missing" in configured.reload(f'[audit]\nfile = "{tmp_path}/missing/audit"\n', FAILED)["reason"]
    daemon.create()
    assert configured.reload(f'[audit]\nfile = "{second}"\n')["changed"] == "audit.file"
    daemon.create()
    daemon.stop()

    def targets(file: Path) -> list[str]:
        return [json.loads(line)["target"] for line in file.read_text().splitlines()]

    workers = [f"/v1/workers/worker-{number:08x}" for number in range(1, 5)]
    assert (targets(rotated), targets(first), targets(second)) == (workers[:1], workers[1:3], workers[3:])


def test_the_limits_of_tenants_change_live(configured: Configured) -> None:
    daemon = configured.start("[tenants.acme]\nmax_workers = 1\n")
    acme, slow = make(daemon, "acme", "acme"), make(daemon, "slow", "slow")
    daemon.call("POST", "/v1/workers", {}, token=acme).ok("worker")
    daemon.call("POST", "/v1/workers", {}, token=acme).refused(400, "invalid_request")
    bad = "[tenants.acme]\nmax_workers = 2\n[tenants.slow]\nmax_requests_per_s = 0\n"
    assert "tenants.slow.max_requests_per_s" in configured.reload(bad, FAILED)["reason"]
    daemon.call("POST", "/v1/workers", {}, token=acme).refused(400, "invalid_request")

    told = configured.reload("[tenants.acme]\nmax_workers = 2\n[tenants.slow]\nmax_requests_per_s = 0.01\n")

    assert told["changed"] == "tenants.acme, tenants.slow"
    daemon.call("POST", "/v1/workers", {}, token=acme).ok("worker")
    daemon.call("POST", "/v1/workers", {}, token=acme).refused(400, "invalid_request")
    assert listed(daemon, slow) == []
    refused = daemon.call("GET", "/v1/workers", token=slow)
    assert "max_requests_per_s" in refused.refused(429, "rate_limited")
    assert int(refused.header("Retry-After") or "") > 0
    configured.reload("")
    assert listed(daemon, slow) == []
    daemon.call("POST", "/v1/workers", {}, token=acme).ok("worker")


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

    secret = f'[secrets]\nkey = {{ file = "{tmp_path}/key" }}\n'  # which the sandboxes of agents hide
    configured.reload(f"{config.read_text()}{secret}")

    until(lambda: roll.is_gone(roll.names[1]) and len(roll.names) == 3)
    until(lambda: _ready(daemon) == {"ready": 1, "wanted": 1})


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
